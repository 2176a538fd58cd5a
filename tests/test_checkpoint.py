"""What a checkpoint says it is, where the base of an adapter is, and what is refused."""

import json
import shutil
import sys

import peft
import pytest
import transformers
from families import CONFIGS, FAMILIES, TINY, assert_same, inputs_for, run, tiny_config, tiny_model
from huggingface_hub import constants
from saved_models import HEADS, change_json, save_adapter, save_model

import hf_tanhmax
from hf_tanhmax.checkpoint import (
    ADAPTER_CONFIG,
    BASE,
    CONFIG,
    PEFT_TASKS,
    PIPELINES,
    Checkpoint,
    CheckpointError,
    class_of,
    read_checkpoint,
    read_config,
    read_object,
)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks by an old name


# Whole models


@pytest.mark.parametrize(("family", "auto"), [(family, auto) for family, config in CONFIGS.items() for auto in FAMILIES[config]])
def test_every_head_is_found(family, auto, tmp_path):
    cls = FAMILIES[CONFIGS[family]][auto]
    tiny_config(family, architectures=[cls.__name__], tanhmax_layers=[1]).save_pretrained(tmp_path)
    config = read_config(tmp_path / CONFIG)
    found, model_class = class_of(config, tmp_path / CONFIG)
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
    assert "AutoModel" in tasks["image-feature-extraction"]


@pytest.mark.parametrize(
    ("family", "auto", "pipeline"),
    [
        ("bert", "AutoModel", "feature-extraction"),
        ("vit", "AutoModel", "image-feature-extraction"),
        ("bert", "AutoModelForPreTraining", None),
        ("bert", "AutoModelForSequenceClassification", "text-classification"),
        ("vit", "AutoModelForImageClassification", "image-classification"),
        ("llama", "AutoModelForCausalLM", "text-generation"),
    ],
)
def test_a_model(family, auto, pipeline, tmp_path):
    model = save_model(tmp_path, family, auto, processor=False)
    found = read_checkpoint(tmp_path)
    assert (found.family, found.auto_class, found.model_class, found.pipeline) == (family, auto, type(model), pipeline)
    assert isinstance(found.config, CONFIGS[family])
    assert found.settings == model.config.tanhmax_settings
    assert (found.adapter, found.base, found.base_name, found.processor_class) == (None, None, None, None)


def test_names_of_classes(tmp_path):
    save_model(tmp_path, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    assert read_checkpoint(tmp_path).labels == ["bad", "good"]
    save_model(tmp_path)  # whose classes are LABEL_0 and LABEL_1
    assert read_checkpoint(tmp_path).labels == []
    save_model(tmp_path, auto="AutoModelForMaskedLM", id2label={0: "bad"}, label2id={"bad": 0})
    assert read_checkpoint(tmp_path).labels == []


@pytest.mark.parametrize(
    ("family", "files", "auto"),
    [
        ("bert", ["tokenizer.json"], "AutoTokenizer"),
        ("bert", ["tokenizer_config.json"], "AutoTokenizer"),
        ("vit", ["preprocessor_config.json"], "AutoImageProcessor"),
        ("vit", ["processor_config.json", "tokenizer_config.json"], "AutoImageProcessor"),
        ("vit", ["tokenizer.json"], None),
        ("bert", [], None),
    ],
)
def test_processors(family, files, auto, tmp_path):
    tiny_config(family, architectures=[FAMILIES[CONFIGS[family]]["AutoModel"].__name__]).save_pretrained(tmp_path)
    for name in files:
        (tmp_path / name).write_text("{}")
    assert read_checkpoint(tmp_path).processor_class == auto


# Files that are something else


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
    with pytest.raises(
        ValueError, match=r"is of model type 'bert', which is no TanhMax model \(such as tanhmax_bert\); `hf-tanhmax convert"
    ):
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
        class_of(config, tmp_path / CONFIG)


# Adapters


@pytest.fixture
def adapter(tmp_path):
    save_adapter(tmp_path / "adapter")
    return tmp_path / "adapter"


def name_base(adapter, name, **changes):
    change_json(adapter / ADAPTER_CONFIG, base_model_name_or_path=name, **changes)
    return read_checkpoint(adapter)


@pytest.mark.parametrize("family", TINY)
def test_an_adapter(family, tmp_path):
    model = save_model(tmp_path / BASE, family, processor=False)
    model.name_or_path = str(tmp_path / BASE)
    task = {"bert": "SEQ_CLS", "llama": "CAUSAL_LM"}.get(family)
    peft.get_peft_model(model, peft.LoraConfig(r=2, task_type=task)).save_pretrained(tmp_path)
    found = read_checkpoint(tmp_path)
    assert (found.adapter["peft_type"], found.base_name, found.base) == ("LORA", str(tmp_path / BASE), Checkpoint(str(tmp_path / BASE)))
    assert (found.family, found.auto_class, found.base.is_local) == (family, HEADS[family], True)


@pytest.mark.parametrize("name", ["you/base", "/moved/away", "other", None])
def test_the_folder_in_it_is_the_base(name, adapter, tmp_path, monkeypatch):
    """Even where the adapter names another that is there: a copied run keeps its own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(adapter / BASE, "other")
    assert name_base(adapter, name).base == Checkpoint(str(adapter / BASE))


def test_a_folder_elsewhere_is_the_base(adapter, tmp_path):
    shutil.move(adapter / BASE, tmp_path / "elsewhere")
    found = name_base(adapter, str(tmp_path / "elsewhere"))
    assert found.base == Checkpoint(str(tmp_path / "elsewhere"))
    assert found.family == "bert"


@pytest.mark.parametrize("name", ["you/base", "/no/such/folder of this machine"])
def test_a_base_that_is_not_here(name, adapter):
    shutil.rmtree(adapter / BASE)
    found = name_base(adapter, name)
    assert (found.base, found.base_name, found.base.is_local) == (Checkpoint(name), name, False)
    assert (found.config, found.settings, found.family, found.model_class, found.labels) == (None, None, None, None, [])
    assert (found.auto_class, found.pipeline) == ("AutoModelForSequenceClassification", "text-classification")


def test_a_revision_of_the_base(adapter):
    shutil.rmtree(adapter / BASE)
    assert name_base(adapter, "you/base", revision="f00").base == Checkpoint("you/base", "f00")
    assert read_checkpoint(adapter, revision="b42").base == Checkpoint("you/base", "b42")
    assert read_checkpoint("you/model", revision="b42") == Checkpoint("you/model", "b42")


def test_a_base_in_the_cache_of_the_hub(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--you--base"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("f00")
    shutil.move(adapter / BASE, repository / "snapshots" / "f00")
    assert name_base(adapter, "you/base").family == "bert"
    assert name_base(adapter, "you/base", revision="f00").family == "bert"
    assert name_base(adapter, "you/base", revision="b42").family is None


def test_an_adapter_is_loaded_on_its_base(tmp_path):
    adapted = save_adapter(tmp_path)
    found = name_base(tmp_path, "moved/away").load()
    assert isinstance(found, peft.PeftModel)
    assert_same(run(found, inputs_for("bert")), run(adapted, inputs_for("bert")))


def test_adapters_that_cannot_be_loaded(adapter, monkeypatch):
    shutil.rmtree(adapter / BASE)
    with pytest.raises(CheckpointError, match=r"adapter_config.json names no base model \(base_model_name_or_path\)"):
        name_base(adapter, None).load()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"adapter is an adapter, which needs PEFT: pip install hf-tanhmax\[recipes\]"):
        read_checkpoint(adapter).load()


@pytest.mark.parametrize(("text", "said"), [("{", "is not JSON"), ("[1]", "holds no JSON object")])
def test_an_adapter_config_that_is_none(text, said, tmp_path):
    (tmp_path / ADAPTER_CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match=f"adapter_config.json {said}"):
        read_checkpoint(tmp_path)


def test_the_tasks_are_those_of_peft():
    assert set(PEFT_TASKS) == {str(task.value) for task in peft.TaskType}
