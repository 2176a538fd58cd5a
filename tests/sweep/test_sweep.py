"""Every architecture of Transformers: what the results say of it holds, for some at every run and for all when it is asked for."""

import pytest
import run
import sweep_table
import transformers
from levels import LEVELS, levels_of
from thorough import thorough_only
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

RESULTS = sweep_table.latest()
TYPES = RESULTS["types"]
NAMED = (
    *("mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3", "phi3", "smollm3", "olmo", "olmo2", "granite", "starcoder2"),
    *(
        "mixtral",
        "qwen2_moe",
        "gpt_neox",
        "opt",
        "gpt2",
        "bloom",
        "gpt_oss",
        "roberta",
        "xlm-roberta",
        "distilbert",
        "electra",
        "modernbert",
    ),
    *("deberta-v2", "albert", "mpnet", "camembert", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "beit", "clip", "siglip"),
    *("llava", "paligemma", "qwen2_vl", "whisper", "wav2vec2", "t5", "bart", "encoder-decoder", "vision-encoder-decoder"),
    # what the sweep found: causal modules without masks under eager; inputs that come along; one row of queries; buffers of no file;
    # a class that reads files; padded frames without keys; a part without an implementation; a part of the same type; another type's
    # classes; a class that Transformers does not export
    *("bridgetower", "gemma4_vision", "granite_speech", "falcon_h1", "jev", "canary", "fun_asr_nano", "pi0", "internlm3", "canary_decoder"),
)
same_release = pytest.mark.skipif(
    transformers.__version__ != RESULTS["transformers"], reason=f"the results are of Transformers {RESULTS['transformers']}"
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of architectures, about their own settings
@pytest.mark.parametrize("model_type", NAMED)
def test_named_architectures(model_type):
    found = levels_of(model_type)
    if transformers.__version__ == RESULTS["transformers"]:
        assert run.kept(found) == TYPES[model_type]
    else:
        assert found["outcome"] != "failed", found


@same_release
def test_every_type_was_swept():
    assert TYPES.keys() == set(CONFIG_MAPPING_NAMES)


def test_none_fails():
    assert {name: entry["reason"] for name, entry in TYPES.items() if entry["outcome"] == "failed"} == {}


def test_whatever_does_not_work_has_a_reason():
    for name, entry in TYPES.items():
        if entry["outcome"] == "works":
            assert entry["levels"].keys() < LEVELS.keys(), name
        else:
            assert entry["reason"], name


def test_most_ask_the_attention_interface():
    assert sweep_table.counts(RESULTS)["works"] >= 250


@same_release
def test_the_whole_sweep(tmp_path):
    thorough_only("the named architectures run")
    for found in run.examined(list(CONFIG_MAPPING_NAMES)):
        assert run.kept(found) == TYPES[found["type"]]
