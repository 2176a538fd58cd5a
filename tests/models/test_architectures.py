"""The Auto classes: every head of the three upstream families has its TanhMax class, and files are found by model type alone."""

import json
import logging
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny
import tokenizers
import torch
import transformers
from families import CONFIGS, FAMILIES, TINY, assert_same, auto_heads, heads, run, tiny_config
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

import hf_tanhmax
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.models import architectures
from hf_tanhmax.models.registered import register

MISTRAL = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 13,
}
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
    register()
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


@pytest.mark.parametrize("family", ["qwen2", "modernbert", "arcee", "deepseek_v3"])
def test_tokenizer_class_that_transformers_corrects(family, tmp_path):
    """Files of a checkpoint, copied beside a converted one, may name a class that is known to be wrong for their model type."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "sign": 1}, unk_token="[UNK]"))
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    found = []
    for config in (transformers.CONFIG_MAPPING[family](), architectures.config_of(family)()):
        config.save_pretrained(tmp_path)
        found.append(type(AutoTokenizer.from_pretrained(tmp_path)))
    assert found[1] is found[0]


def test_tokenizer_of_remote_code_that_transformers_corrects(tmp_path):
    """Of some model types it takes its own tokenizer, and asks for no trust in the code of the checkpoint."""
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "sign": 1}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    auto_map = {"auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}, "tokenizer_class": "TokenizersBackend"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(auto_map))
    architectures.config_of("phi3")().save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("sign").input_ids == [1]


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


@pytest.fixture(scope="module")
def transformers_is_silent():
    """Some packages speak whenever Transformers imports them (torchao, about libraries it cannot load): that is not ours to test."""
    found = subprocess.run([sys.executable, "-c", "from transformers import PreTrainedModel"], capture_output=True, text=True, check=False)
    if found.stdout or found.stderr:
        pytest.skip(f"importing Transformers alone prints here: {(found.stdout + found.stderr).splitlines()[0]}")


@pytest.mark.slow
def test_importing_is_silent(transformers_is_silent):
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


def test_a_class_by_its_name_is_the_one_that_the_auto_classes_make():
    config = AutoConfig.for_model("tanhmax_mistral", **MISTRAL)
    assert type(config) is hf_tanhmax.TanhMaxMistralConfig
    assert type(transformers.AutoModelForCausalLM.from_config(config)) is hf_tanhmax.TanhMaxMistralForCausalLM
    assert hf_tanhmax.TanhMaxMistralForCausalLM.__mro__[1] is transformers.MistralForCausalLM


def test_a_class_that_no_auto_class_has():
    cls = hf_tanhmax.TanhMaxCLIPTextModelWithProjection
    assert cls.config_class is hf_tanhmax.TanhMaxCLIPTextConfig
    assert cls.config_class.model_type == "tanhmax_clip_text_model"


def test_a_type_of_no_architecture():
    with pytest.raises(ValueError, match=r"'qwen33' is no model type of Transformers .*: is it 'qwen3'\?"):
        architectures.config_of("qwen33")
    assert architectures.upstream_type("tanhmax_qwen33") is None
    assert architectures.upstream_type("qwen3") is None
    assert architectures.upstream_type(None) is None


def test_pickles(tmp_path):
    config = AutoConfig.for_model("tanhmax_mistral", **MISTRAL)
    model = transformers.AutoModel.from_config(config)
    again = pickle.loads(pickle.dumps((config, model, type(model))))
    assert again[0].to_dict() == config.to_dict()
    assert again[2] is type(again[1]) is type(model)


def test_weights_of_other_names_are_shared_with_the_upstream_type(tmp_path):
    """Files of DETR and others hold other names than its modules."""
    shared = [name for name in ("ViTModel", "vit") if get_checkpoint_conversion_mapping(name)]
    assert shared
    for name in shared:
        ours = {"ViTModel": "TanhMaxViTModel", "vit": "tanhmax_vit"}[name]
        assert len(get_checkpoint_conversion_mapping(ours)) == len(get_checkpoint_conversion_mapping(name))


@pytest.mark.slow
def test_importing_makes_no_class(transformers_is_silent):
    code = """
import sys, hf_tanhmax
from hf_tanhmax.models.family import HEADS
assert not HEADS
assert not [name for name in sys.modules if name.startswith("transformers.models.") and ".modeling_" in name and ".auto." not in name]
import transformers
assert transformers.AutoConfig.for_model("tanhmax_olmo").hidden_size == transformers.OlmoConfig().hidden_size
assert [config.__name__ for config in HEADS] == ["TanhMaxOlmoConfig"]
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_processors_of_the_upstream_type():
    assert transformers.FEATURE_EXTRACTOR_MAPPING[architectures.config_of("whisper")] is transformers.WhisperFeatureExtractor
    assert transformers.PROCESSOR_MAPPING[architectures.config_of("clip")] is transformers.CLIPProcessor
    assert transformers.TOKENIZER_MAPPING[architectures.config_of("bert")] is transformers.BertTokenizer
    assert IMAGE_PROCESSOR_MAPPING[architectures.config_of("clip")]["pil"] is transformers.CLIPImageProcessorPil


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("TanhMaxQwen3Modle", ", or is it TanhMaxQwen3Model?"),
        ("TanhMaxLLamaConfig", ", or is it TanhMaxLlamaConfig?"),
        ("TanhMaxZzzzzz", ""),
    ],
)
def test_a_class_that_transformers_lacks(name, hint):
    lacking = f"Transformers {transformers.__version__} has no {name.removeprefix('TanhMax')}"
    said = f"there is no {name}, as {lacking}; install a newer one that has it (pip install -U transformers){hint}"
    with pytest.raises(AttributeError, match=f"^{re.escape(said)}$"):
        getattr(hf_tanhmax, name)


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


@pytest.mark.parametrize("name", ["PreTrainedModel", "AutoModel", "CLIPProcessor", "Trainer"])
def test_a_class_of_no_architecture(name):
    with pytest.raises(
        AttributeError, match=f"there is no TanhMax{name}, as {name} of Transformers is no model or config of an architecture"
    ):
        getattr(hf_tanhmax, f"TanhMax{name}")


def test_threads_get_the_same_class():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            for name in ("TanhMaxMptConfig", "TanhMaxGPTNeoXForCausalLM", "TanhMaxStableLmModel"):
                found = list(pool.map(lambda wanted: getattr(hf_tanhmax, wanted), [name] * 6))
                assert len(set(found)) == 1
    finally:
        sys.setswitchinterval(before)


def test_names_are_listed():
    assert {"TanhMaxQwen3ForCausalLM", "PolarityCallback", "convert"} <= set(dir(hf_tanhmax))


def test_a_class_that_transformers_does_not_export():
    """A fresh process must find it by its name alone, for a pickle and for the published file."""
    found = hf_tanhmax.TanhMaxAltRobertaModel
    assert (found.__mro__[1].__name__, found.config_class) == ("AltRobertaModel", hf_tanhmax.TanhMaxAltCLIPTextConfig)
    assert pickle.loads(pickle.dumps(found)) is found
    with pytest.raises(AttributeError, match=r"there is no TanhMaxAltRobertaModell, as Transformers .* has no AltRobertaModell"):
        hf_tanhmax.TanhMaxAltRobertaModell  # noqa: B018
