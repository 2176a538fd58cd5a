"""The Auto classes: every head of the three upstream families has its TanhMax class, and files are found by model type alone."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from families import CONFIGS, FAMILIES, TINY, auto_heads, heads, tiny_config
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

import hf_tanhmax
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.models import architectures

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "sign", "of", "a", "weight")


@pytest.mark.parametrize("family", TINY)
def test_every_upstream_head_has_its_class(family):
    ours = {name: cls.__mro__[1] for name, cls in FAMILIES[CONFIGS[family]].items()}
    assert ours == auto_heads(family)


@pytest.mark.parametrize(("family", "name", "upstream"), heads())
def test_auto_classes_make_our_classes(family, name, upstream):
    model = getattr(transformers, name).from_config(tiny_config(family))
    assert type(model) is getattr(hf_tanhmax, f"TanhMax{upstream}")
    assert attention_modules(model)


@pytest.mark.parametrize("family", TINY)
def test_configs_are_found_by_model_type(family):
    assert type(AutoConfig.for_model(f"tanhmax_{family}")) is CONFIGS[family]


def test_registering_again_changes_nothing():
    before = {family: dict(found) for family, found in FAMILIES.items()}
    architectures.register_types()
    assert before == FAMILIES
    assert type(transformers.AutoModel.from_config(tiny_config("bert"))) is hf_tanhmax.TanhMaxBertModel


def test_tokenizer_of_a_vocabulary_alone(tmp_path):
    """Old BERT checkpoints have a `vocab.txt` and nothing else; the model type says how to read it."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    tiny_config("bert").save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("the sign of a weight").input_ids == [2, 5, 6, 7, 8, 9, 3]


def test_tokenizer_that_was_saved(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "saved")
    for family in ("bert", "llama"):
        tiny_config(family).save_pretrained(tmp_path / "saved")
        assert AutoTokenizer.from_pretrained(tmp_path / "saved")("a sign").input_ids == [2, 8, 6, 3]


def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (21, 17, 3), dtype=np.uint8))


def needs_image_processors():
    """Transformers 5.17 exports `AutoImageProcessor` only beside torchvision, and raises ImportError at its first use."""
    try:
        AutoImageProcessor.from_pretrained  # noqa: B018
    except ImportError:
        pytest.skip(f"Transformers {transformers.__version__} has no image processors without torchvision")


@pytest.mark.parametrize("typed", [True, False], ids=["type written", "type not written"])
def test_image_processor(typed, tmp_path):
    needs_image_processors()
    tiny_config("vit").save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 15, "width": 15}).save_pretrained(tmp_path)
    if not typed:
        path = tmp_path / "preprocessor_config.json"
        written = json.loads(path.read_text())
        written.pop("image_processor_type")
        path.write_text(json.dumps(written))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    pixels = processor(image(), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 15, 15)
    model = hf_tanhmax.TanhMaxViTModel(tiny_config("vit")).eval()
    assert torch.isfinite(model(pixel_values=pixels).last_hidden_state).all()


@pytest.mark.slow
def test_importing_is_silent():
    """No warning, no log line, no output, no kernel, no CUDA."""
    code = """
import sys, hf_tanhmax, torch
assert "hf_tanhmax.attention.kernels.forward" not in sys.modules
assert not torch.cuda.is_initialized()
"""
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_the_log_of_the_package_has_no_handlers():
    assert not logging.getLogger("hf_tanhmax").handlers


RENAMED = {
    "LlavaForConditionalGeneration": {
        "text_config": {"model_type": "llama", **TINY["llama"]},
        "vision_config": {
            "model_type": "clip_vision_model",
            **{key: value for key, value in TINY["vit"].items() if key != "encoder_stride"},
        },
        "image_seq_length": 9,
        "image_token_index": 5,
    },
    "MixtralForCausalLM": {**TINY["llama"], "num_local_experts": 3},
}


@pytest.mark.parametrize("name", RENAMED)
def test_a_checkpoint_whose_weights_have_other_names_in_its_files(name, tmp_path):
    """Transformers renames them by model type, which is still upstream's while a conversion loads."""
    cls = getattr(transformers, name)
    softmax = cls(cls.config_class(**RENAMED[name])).eval()
    softmax.save_pretrained(tmp_path)
    converted, shared = hf_tanhmax.convert(str(tmp_path)).state_dict(), hf_tanhmax.convert(softmax).state_dict()
    assert converted.keys() == shared.keys()
    assert all(torch.equal(converted[key], value) for key, value in shared.items())


def test_tables_of_class_names_have_the_types():
    """Libraries read them: whether a type has an encoder and a decoder, and which classes a task has."""
    architectures.config_of("t5")
    architectures.config_of("whisper")
    tables = vars(transformers.models.auto.modeling_auto)
    assert tables["MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"]["tanhmax_t5"] == "TanhMaxT5ForConditionalGeneration"
    assert tables["MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES"]["tanhmax_whisper"] == "TanhMaxWhisperForConditionalGeneration"
    assert "tanhmax_t5" not in tables["MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES"]
    rows = [(name, table["tanhmax_whisper"]) for name, table in tables.items() if name.endswith("_NAMES") and "tanhmax_whisper" in table]
    assert rows
    for name, row in rows:
        classes = (row,) if isinstance(row, str) else row
        assert [each.removeprefix("TanhMax") for each in classes] == [
            *((found,) if isinstance(found := tables[name]["whisper"], str) else found)
        ]
