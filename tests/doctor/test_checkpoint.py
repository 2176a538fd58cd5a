"""Whole checkpoints, and adapters with their base."""

import json
import shutil

import pytest
import transformers
from families import TINY, tiny_model
from huggingface_hub import constants
from made_conversions import IN_WORDS, REPORT
from saved_models import change_json, save_adapter, save_model

from hf_tanhmax.doctor import check_checkpoint, errors_in
from hf_tanhmax.models.remote_code import CODE_FILE

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks by an old name
PROCESSOR = {"bert": "tokenizer.json", "llama": "tokenizer.json", "vit": "preprocessor_config.json"}


@pytest.fixture(scope="module", params=TINY)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    save_model(folder, request.param, tanhmax_layers=[0, 2], processor=request.param != "vit")
    if request.param == "vit":  # as its processor would; some releases of Transformers have none without torchvision
        (folder / PROCESSOR["vit"]).write_text('{"image_processor_type": "ViTImageProcessor"}')
    return request.param, folder


@pytest.fixture(scope="module")
def saved_adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved[1], tmp_path / "copy")


@pytest.fixture
def adapter(saved_adapter, tmp_path):
    copy = shutil.copytree(saved_adapter, tmp_path / "copy")
    change_json(copy / "adapter_config.json", base_model_name_or_path=str(copy / "base"))
    return copy


def levels(findings):
    return [(finding.level, finding.subject) for finding in findings]


def about(findings, subject):
    return [(finding.level, finding.sentence) for finding in findings if finding.subject == subject]


def test_all_is_well(saved):
    family, folder = saved
    found = check_checkpoint(folder)
    assert levels(found) == [("ok", name) for name in ("config.json", "model.safetensors", CODE_FILE, PROCESSOR[family])]
    assert found[0].sentence.endswith("with TanhMax attention (polarity 1) in layers 0, 2 of 3 (the others are softmax) and all heads")
    assert levels(check_checkpoint(str(folder))) == levels(found)


def test_a_model_that_was_aligned(folder):
    REPORT.save(folder)
    assert about(check_checkpoint(folder), "conversion.json") == [("ok", f"says that the model {IN_WORDS}")]
    (folder / "conversion.json").write_text("[]")
    said = "is no report of a conversion; convert the model again, or delete the file"
    assert about(check_checkpoint(folder), "conversion.json") == [("warning", said)]


def test_the_disk_stays_as_it_is(saved):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in saved[1].rglob("*")}
    check_checkpoint(saved[1])
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in saved[1].rglob("*")} == before


def test_no_folder(tmp_path):
    assert about(check_checkpoint(tmp_path / "gone"), str(tmp_path / "gone")) == [
        ("error", "is not a folder; name the one that holds config.json")
    ]


def test_a_folder_of_something_else(tmp_path):
    """Of a folder that holds no model, only that is said, however full it is."""
    (tmp_path / "notes.bin").write_text("x")
    assert levels(check_checkpoint(tmp_path)) == [("error", "config.json")]


def test_a_softmax_checkpoint(tmp_path):
    tiny_model(transformers.BertModel).save_pretrained(tmp_path)
    ((level, sentence),) = about(check_checkpoint(tmp_path), "config.json")
    assert level == "error"
    assert "is of model type 'bert', which is no TanhMax model" in sentence


def test_a_softmax_checkpoint_that_no_kernel_reaches(tmp_path):
    sides = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 24, "num_heads": 3, "num_layers": 2}
    config = transformers.GPTNeoConfig(**sides, attention_types=[[["global"], 2]], intermediate_size=12)
    transformers.GPTNeoForCausalLM(config).save_pretrained(tmp_path)
    (level, _), warning = about(check_checkpoint(tmp_path), "config.json")
    said = 'GPTNeoForCausalLM ignores attn_implementation="owner/name": its GPTNeoSelfAttention compute softmax themselves, without asking'
    assert (level, warning[0]) == ("error", "warning")
    assert warning[1].startswith(said)
    assert warning[1].endswith("; hf-tanhmax convert refuses it too")


def test_files_are_looked_at(folder):
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / "notes.txt").write_text("hf_" + "a" * 34)
    assert levels(errors_in(check_checkpoint(folder))) == [("error", "notes.txt"), ("error", "pytorch_model.bin")]


def test_truncated_config(folder):
    path = folder / "config.json"
    path.write_text(path.read_text()[:-20])
    assert about(errors_in(check_checkpoint(folder)), "config.json")[-1] == ("error", "is not a JSON object")


def test_a_model_that_cannot_be_built(folder):
    change_json(folder / "config.json", tanhmax_layers=[9])
    ((_, sentence),) = about(errors_in(check_checkpoint(folder)), "config.json")
    assert sentence.startswith("describes a model that cannot be built: there is no layer 9")


def test_a_class_that_is_not_named(folder):
    change_json(folder / "config.json", architectures=["Elsewhere"])
    found = check_checkpoint(folder)
    assert not errors_in(found)
    ((level, sentence),) = about(found, "config.json")
    assert level == "warning"
    assert sentence.endswith("save the model again; until then nobody can tell whether tensors are missing")


def test_no_processor(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
    last = check_checkpoint(folder)[-1]
    assert last.level == "warning"
    assert last.subject in ("tokenizer", "image processor")
    assert last.sentence.endswith("so a pipeline cannot use the model; save it into the same folder")


def test_use_cache(saved, folder):
    change_json(folder / "config.json", use_cache=False)
    if saved[0] == "llama":
        change_json(folder / "generation_config.json", use_cache=False)
    warnings = [finding for finding in check_checkpoint(folder) if finding.level == "warning"]
    if saved[0] != "llama":  # nothing is generated
        assert not warnings
        return
    assert [warning.subject for warning in warnings] == ["config.json", "generation_config.json"]
    assert warnings[0].sentence.startswith("has use_cache false, as training leaves it: generate() keeps a cache anyway")
    assert warnings[1].sentence.startswith("has use_cache false, so each new token costs as much as all before it")


# Adapters


def test_an_adapter_with_its_base(adapter):
    found = check_checkpoint(adapter)
    assert levels(found) == [
        ("ok", "adapter_model.safetensors"),
        ("ok", "adapter_config.json"),
        ("ok", "base/config.json"),
        ("ok", "base/model.safetensors"),
        ("ok", f"base/{CODE_FILE}"),
    ]
    assert found[1].sentence == "LORA on the modules query, value"


def test_an_adapter_that_was_moved(adapter):
    change_json(adapter / "adapter_config.json", base_model_name_or_path="runs/elsewhere/base")
    ((_, words), (level, sentence)) = about(check_checkpoint(adapter), "adapter_config.json")
    assert words.startswith("LORA")
    assert level == "warning"
    assert sentence.startswith("names its base 'runs/elsewhere/base', which is not found from here, though base/ lies beside it")


def test_a_base_elsewhere(adapter, tmp_path):
    base = shutil.move(adapter / "base", tmp_path / "base")
    change_json(adapter / "adapter_config.json", base_model_name_or_path=str(base))
    found = about(check_checkpoint(adapter), "adapter_config.json")
    assert found[1][0] == "ok"
    assert found[1][1].endswith("which has TanhMax attention (polarity 1) in all layers and all heads")


def test_a_softmax_base(adapter, tmp_path):
    shutil.rmtree(adapter / "base")
    tiny_model(transformers.BertModel).save_pretrained(tmp_path / "softmax")
    change_json(adapter / "adapter_config.json", base_model_name_or_path=str(tmp_path / "softmax"))
    ((_, sentence),) = about(errors_in(check_checkpoint(adapter)), "adapter_config.json")
    assert "whose config.json is of model type 'bert', which is no TanhMax model" in sentence


@pytest.mark.parametrize("name", ["you/your-base", "/no/such/folder of this machine"])
def test_a_base_that_is_not_here(name, adapter):
    shutil.rmtree(adapter / "base")
    change_json(adapter / "adapter_config.json", base_model_name_or_path=name)
    found = about(check_checkpoint(adapter), "adapter_config.json")[1]
    assert found[0] == "warning"
    assert found[1].endswith("which is not on this machine, so whether it is a TanhMax model is unknown; load it once")


def test_a_base_in_the_cache_of_the_hub(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--you--base"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("f00")
    shutil.move(adapter / "base", repository / "snapshots" / "f00")
    change_json(adapter / "adapter_config.json", base_model_name_or_path="you/base")
    assert about(check_checkpoint(adapter), "adapter_config.json")[1][0] == "ok"


def test_an_adapter_without_a_base_or_weights(adapter):
    shutil.rmtree(adapter / "base")
    change_json(adapter / "adapter_config.json", base_model_name_or_path=None)
    (adapter / "adapter_model.safetensors").unlink()
    assert [finding.sentence for finding in errors_in(check_checkpoint(adapter))] == [
        "is missing; copy or save the checkpoint again",
        "names no base model (base_model_name_or_path), so the adapter cannot be loaded",
    ]


def test_an_adapter_config_of_something_else(adapter):
    (adapter / "adapter_config.json").write_text("[1]")
    assert about(check_checkpoint(adapter), "adapter_config.json") == [("error", "holds no JSON object; save the adapter again")]


def test_a_pickled_adapter(adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert {finding.subject for finding in errors_in(check_checkpoint(adapter))} == {"adapter_model.bin", "adapter_model.safetensors"}


def test_truncated_adapters(adapter):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    (adapter / "base" / "model.safetensors").write_bytes(b"")
    json.loads((adapter / "adapter_config.json").read_text())
    assert {finding.subject for finding in errors_in(check_checkpoint(adapter))} == {
        "adapter_model.safetensors",
        "base/model.safetensors",
    }
