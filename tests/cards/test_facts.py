"""What the files of a folder say."""

import json
import shutil

import pytest
import transformers
from families import CONFIGS, TINY, tiny_model
from huggingface_hub import constants
from saved_models import HEADS, change_json, save_adapter, save_model

from hf_tanhmax.cards.facts import TASKS, read_facts

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks by an old name


@pytest.mark.parametrize("family", TINY)
def test_a_model(family, tmp_path):
    save_model(tmp_path, family, processor=False)
    facts = read_facts(tmp_path)
    assert (facts.family, facts.auto_class) == (family, HEADS[family])
    assert isinstance(facts.config, CONFIGS[family])
    assert facts.pipeline_tag == {"bert": "text-classification", "vit": "image-classification", "llama": "text-generation"}[family]
    assert (facts.is_adapter, facts.adapter_base, facts.processor, facts.figures, facts.seed) == (False, None, None, (), None)


def test_what_lies_beside_it(tmp_path):
    save_model(tmp_path)
    (tmp_path / "figures").mkdir()
    for name in ("loss.png", "health of layers.png", "notes.txt"):
        (tmp_path / "figures" / name).write_bytes(b"x")
    (tmp_path / "results.json").write_text(json.dumps({"seed": 7}))
    facts = read_facts(tmp_path)
    assert facts.processor == "AutoTokenizer"
    assert facts.figures == ("figures/health of layers.png", "figures/loss.png")
    assert facts.seed == 7


def test_an_image_processor(tmp_path):
    save_model(tmp_path, "vit", processor=False)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert read_facts(tmp_path).processor == "AutoImageProcessor"


def test_names_of_classes(tmp_path):
    save_model(tmp_path, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    assert read_facts(tmp_path).labels == ["bad", "good"]
    save_model(tmp_path)  # whose classes are LABEL_0 and LABEL_1
    assert read_facts(tmp_path).labels == []
    save_model(tmp_path, auto="AutoModelForMaskedLM", id2label={0: "bad"}, label2id={"bad": 0})
    assert read_facts(tmp_path).labels == []


@pytest.mark.parametrize("family", TINY)
def test_an_adapter(family, tmp_path):
    save_adapter(tmp_path, family) if family != "vit" else save_adapter_without_processor(tmp_path)
    facts = read_facts(tmp_path)
    assert (facts.is_adapter, facts.adapter_base, facts.base_is_local) == (True, str(tmp_path / "base"), True)
    assert (facts.family, facts.auto_class) == (family, HEADS[family])
    assert facts.processor == (None if family == "vit" else "AutoTokenizer")


def save_adapter_without_processor(folder):
    """Some releases of Transformers have no image processor without torchvision."""
    import peft

    model = save_model(folder / "base", "vit", processor=False)
    model.name_or_path = str(folder / "base")
    peft.get_peft_model(model, peft.LoraConfig(r=2)).save_pretrained(folder)


def test_a_base_that_is_not_here(tmp_path):
    save_adapter(tmp_path)
    shutil.rmtree(tmp_path / "base")
    for name in ("you/base", str(tmp_path / "base")):
        change_json(tmp_path / "adapter_config.json", base_model_name_or_path=name)
        facts = read_facts(tmp_path)
        assert (facts.config, facts.family, facts.labels, facts.adapter_base) == (None, None, [], name)
        assert not facts.base_is_local
        assert facts.auto_class == "AutoModelForSequenceClassification"
        assert facts.pipeline_tag == "text-classification"


def test_a_base_in_the_cache_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    save_adapter(tmp_path / "adapter")
    repository = tmp_path / "cache" / "models--you--base"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("f00")
    shutil.move(tmp_path / "adapter" / "base", repository / "snapshots" / "f00")
    change_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path="you/base")
    assert read_facts(tmp_path / "adapter").family == "bert"


def test_the_tasks_are_those_of_peft():
    import peft

    assert set(TASKS) == {str(task.value) for task in peft.TaskType} - {"SEQ_2_SEQ_LM"}


def test_what_is_no_tanhmax_model(tmp_path):
    with pytest.raises(ValueError, match=r"there is no TanhMax model in .* to write a card for: .*config.json is not there"):
        read_facts(tmp_path)
    tiny_model(transformers.BertModel).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"to write a card for: .*config.json is of model type 'bert'"):
        read_facts(tmp_path)
