"""What a checkpoint on disk says it is, and what is refused."""

import json

import pytest
import transformers
from families import CONFIGS, tiny_config, tiny_model
from saved_models import change_json

import hf_tanhmax
from hf_tanhmax.checkpoint import CONFIG, PIPELINES, class_of, pipeline_of, read_config, read_object
from hf_tanhmax.models.auto import FAMILIES


@pytest.mark.parametrize(("family", "auto"), [(family, auto) for family, config in CONFIGS.items() for auto in FAMILIES[config]])
def test_every_head_is_found(family, auto, tmp_path):
    cls = FAMILIES[CONFIGS[family]][auto]
    tiny_config(family, architectures=[cls.__name__], tanhmax_layers=[1]).save_pretrained(tmp_path)
    config = read_config(tmp_path / CONFIG)
    found, model_class = class_of(config)
    assert type(config) is CONFIGS[family]
    assert config.tanhmax_settings.layers == (1,)
    assert model_class is cls
    assert FAMILIES[CONFIGS[family]][found] is cls
    assert (found == "AutoModel") == (cls.__name__.endswith("Model") and not cls.__name__.endswith("LMHeadModel"))


def test_every_task_is_one_of_transformers():
    """What a pipeline calls a task, and the Auto class that it loads."""
    tasks = {task: [cls.__name__ for cls in known["pt"]] for task, known in transformers.pipelines.SUPPORTED_TASKS.items()}
    pipelines = {auto: task for auto, task in PIPELINES.items() if task not in ("multiple-choice", "question-answering")}
    assert all(auto in tasks[task] for auto, task in pipelines.items())
    assert pipeline_of("AutoModel", "tanhmax_bert") == "feature-extraction"
    assert "AutoModel" in tasks[pipeline_of("AutoModel", "tanhmax_vit")]
    assert pipeline_of("AutoModelForPreTraining", "tanhmax_bert") is None


def test_only_objects_are_read(tmp_path):
    assert read_object(tmp_path / "none.json") is None
    for text in ("[1]", "{", "\xff"):
        (tmp_path / CONFIG).write_text(text, encoding="latin-1")
        assert read_object(tmp_path / CONFIG) is None
    (tmp_path / CONFIG).write_text('{"a": 1}')
    assert read_object(tmp_path / CONFIG) == {"a": 1}


def test_what_is_no_config(tmp_path):
    with pytest.raises(ValueError, match="is not there; name the folder that a model was saved to"):
        read_config(tmp_path / CONFIG)
    (tmp_path / CONFIG).write_text("[]")
    with pytest.raises(ValueError, match="is not a JSON object"):
        read_config(tmp_path / CONFIG)
    tiny_model(transformers.BertModel).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is of model type 'bert', which is no TanhMax model \(tanhmax_bert, .*hf-tanhmax convert"):
        read_config(tmp_path / CONFIG)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tanhmax_polarity": 3}, r"polarity must be in \[0, 1\] .* but is 3"),
        ({"tanhmax_layers": [-1]}, "layers must hold indices counted from 0, but holds -1"),
        ({"hidden_size": "wide"}, "'hidden_size' expected int, got str"),
    ],
)
def test_values_that_cannot_be(changes, said, tmp_path):
    tiny_config("bert").save_pretrained(tmp_path)
    change_json(tmp_path / CONFIG, **changes)
    with pytest.raises(ValueError, match=f"holds a value that cannot be: .*{said}"):
        read_config(tmp_path / CONFIG)


@pytest.mark.parametrize("named", [[], ["BertModel"], ["TanhMaxLlamaModel"], ["TanhMaxBertModel", "TanhMaxBertForMaskedLM"]])
def test_no_class_or_several(named, tmp_path):
    config = hf_tanhmax.TanhMaxBertConfig(**json.loads(tiny_config("bert").to_json_string(use_diff=False)))
    config.architectures = named
    with pytest.raises(ValueError, match=r"does not name one class of its family \(architectures: .*\); save the model again"):
        class_of(config)
