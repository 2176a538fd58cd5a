"""The Auto classes: every head of the three upstream families has its TanhMax class, and files are found by model type alone."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
import transformers
from families import CONFIGS, FAMILIES, TINY, assert_same, auto_heads, heads, run, tiny_config
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


def test_buffers_that_no_file_has_are_those_of_upstream(tmp_path):
    """Falcon-H1's model sets multipliers in its layers, which are not saved."""
    upstream = tiny.tiny_model("falcon_h1")
    wanted = dict(upstream.named_buffers())
    converted = hf_tanhmax.convert(upstream)
    converted.save_pretrained(tmp_path)
    for model in (converted, transformers.AutoModelForCausalLM.from_pretrained(tmp_path)):
        for name, value in model.named_buffers():
            assert torch.equal(value, wanted[name]), name


def test_a_part_that_upstream_gives_no_implementation():
    """The config of Fun-ASR-Nano's adaptor has none, for which Transformers makes no masks."""
    upstream = tiny.tiny_model("fun_asr_nano")
    assert upstream.config.adaptor_config._attn_implementation is None
    inputs = tiny.tiny_inputs(upstream)
    converted = hf_tanhmax.convert(upstream, polarity=0.0)
    assert converted.config.adaptor_config._attn_implementation == "eager"
    assert_same(run(converted, inputs), run(upstream, inputs))
