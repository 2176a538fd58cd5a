"""PEFT's default target modules for the TanhMax model types: every table, every method, whole models and parts of them."""

import copy

import peft
import pytest
from families import BACKBONES, CONFIGS, TINY, tiny_config, tiny_model
from packaging.version import Version
from peft.utils import constants
from transformers.integrations.peft import MIN_PEFT_VERSION

from hf_tanhmax import TanhMaxBertForSequenceClassification, TanhMaxLlamaForCausalLM, TanhMaxViTForImageClassification
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.models.family import fill_tables

HEADS = {"bert": TanhMaxBertForSequenceClassification, "vit": TanhMaxViTForImageClassification, "llama": TanhMaxLlamaForCausalLM}
TABLES = {name: table for name, table in vars(constants).items() if name.endswith("_MODULES_MAPPING") and "llama" in table}
TYPES = {config.model_type for config in CONFIGS.values()}
QUERY_AND_VALUE = {"bert": {"query", "value"}, "vit": {"q_proj", "v_proj"}, "llama": {"q_proj", "v_proj"}}

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks by an old name
every_family = pytest.mark.parametrize("family", TINY)


@pytest.fixture
def no_rows(monkeypatch):
    """A function that empties the tables of our rows, as they are before PEFT is first asked."""

    def empty():
        for table in TABLES.values():
            for name in TYPES:
                monkeypatch.delitem(table, name, raising=False)

    return empty


@every_family
def test_a_new_adapter_finds_its_modules(family, no_rows):
    """The one moment that this rests on: PEFT asks the config for its dictionary before it looks a table up."""
    model = tiny_model(HEADS[family])
    no_rows()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4))
    assert adapted.peft_config["default"].target_modules == QUERY_AND_VALUE[family]
    assert len(adapted.base_model.targeted_module_names) == 2 * TINY[family]["num_hidden_layers"]


@every_family
def test_parts_of_a_model(family, no_rows):
    model = tiny_model(HEADS[family])
    no_rows()
    backbone = peft.get_peft_model(copy.deepcopy(model).base_model, peft.LoraConfig(r=4))
    assert len(backbone.base_model.targeted_module_names) == 2 * TINY[family]["num_hidden_layers"]
    no_rows()
    attention = peft.get_peft_model(attention_modules(copy.deepcopy(model))[1], peft.LoraConfig(r=4))
    assert set(attention.base_model.targeted_module_names) == QUERY_AND_VALUE[family]


# Transformers 5.24 wants a PEFT of its add_adapter that is not released yet, and says so.
@pytest.mark.skipif(Version(peft.__version__) < Version(MIN_PEFT_VERSION), reason=f"add_adapter needs PEFT {MIN_PEFT_VERSION}")
@every_family
def test_its_own_add_adapter(family, no_rows):
    model = tiny_model(HEADS[family])
    no_rows()
    model.add_adapter(peft.LoraConfig(r=4))
    assert sum(name.endswith("lora_A.default.weight") for name, _ in model.named_parameters()) == 2 * TINY[family]["num_hidden_layers"]


METHODS = {
    "AdaLora": peft.AdaLoraConfig(init_r=3, target_r=2, total_step=10),
    "FourierFT": peft.FourierFTConfig(n_frequency=5),
    "IA3": peft.IA3Config(),
    "LNTuning": peft.LNTuningConfig(),
    "LoHa": peft.LoHaConfig(r=2),
    "LoKr": peft.LoKrConfig(r=2),
    "OFT": peft.OFTConfig(r=0, oft_block_size=3),
    "VBLoRA": peft.VBLoRAConfig(num_vectors=7, vector_length=3, topk=2),
    "Vera": peft.VeraConfig(r=3),
}


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # PEFT does not count LlamaRMSNorm among the norms it tunes
@every_family
@pytest.mark.parametrize("method", METHODS)
def test_other_methods(family, method, no_rows):
    no_rows()
    if (family, method) in {("vit", "IA3"), ("vit", "LNTuning"), ("bert", "LNTuning")}:  # the upstream family has no row either
        with pytest.raises(ValueError, match="Please specify `target_modules`"):
            peft.get_peft_model(tiny_model(HEADS[family]), copy.deepcopy(METHODS[method]))
        return
    adapted = peft.get_peft_model(tiny_model(HEADS[family]), copy.deepcopy(METHODS[method]))
    assert adapted.base_model.targeted_module_names


@every_family
def test_every_row_is_upstreams_and_names_modules_that_exist(family):
    tiny_config(family).to_dict()
    modules = [name for name, _ in tiny_model(BACKBONES[family]).named_modules()]
    assert len(TABLES) > 25
    rows = {name: table[f"tanhmax_{family}"] for name, table in TABLES.items() if f"tanhmax_{family}" in table}
    assert len(rows) > 25
    for name, row in rows.items():
        assert family == "vit" or row == TABLES[name][family], name
        assert all(any(module.endswith(target) for module in modules) for target in row), name
    if family != "vit":
        assert set(rows) == {name for name, table in TABLES.items() if family in table}


def test_rows_of_others_stay(no_rows, monkeypatch):
    before = {name: {key: row for key, row in table.items() if key not in TYPES} for name, table in copy.deepcopy(TABLES).items()}
    no_rows()
    monkeypatch.setitem(constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, "tanhmax_bert", ["key"])
    fill_tables()
    assert constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING["tanhmax_bert"] == ["key"]
    assert {name: {key: row for key, row in table.items() if key not in TYPES} for name, table in TABLES.items()} == before


def test_adaption_prompt_computes_softmax_and_stays_refused():
    config = peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=2, task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="Unsupported model type for adaption prompt: 'tanhmax_llama'"):
        peft.get_peft_model(tiny_model(TanhMaxLlamaForCausalLM), config)
