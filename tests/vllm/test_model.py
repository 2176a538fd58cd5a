"""The class that vLLM makes, and the names of vLLM that it rests on, none of which vLLM promises to keep."""

import inspect
from types import SimpleNamespace

import pytest
import transformers

import hf_tanhmax
import hf_tanhmax.vllm

pytest.importorskip("vllm.version", reason="vLLM is not installed (pip install --group client-vllm)")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def model():
    from hf_tanhmax.vllm import model

    return model


def test_what_is_overridden_is_there(model):
    from vllm.model_executor.models.transformers.base import VLLM_ATTN_ATTR, Base

    for name in ("recursive_replace", "_create_attention_instances", "_from_config_kwargs"):
        assert name in vars(Base)
        assert name in vars(model.TanhMaxForCausalLM)
    assert model.LAYER == VLLM_ATTN_ATTR
    order = inspect.getsource(Base.__init__)
    steps = [
        order.index(step) for step in ("AutoModel.from_config", "self.recursive_replace()", "self._create_attention_instances(prefix)")
    ]
    assert steps == sorted(steps)


def test_checks_of_settings_are_called_by_architecture():
    from vllm.config import VllmConfig
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

    from hf_tanhmax.vllm.refusal import SettingsCheck

    assert isinstance(MODELS_CONFIG_MAP, dict)
    assert "MODELS_CONFIG_MAP.get(architecture" in inspect.getsource(VllmConfig.try_verify_and_update_config)
    own = {name for name in vars(VerifyAndUpdateConfig) if not name.startswith("_")}
    assert own == {name for name in vars(SettingsCheck) if not name.startswith("_")}


def test_no_class_of_vllm_serves_a_tanhmax_checkpoint_as_softmax():
    """Those that vLLM checks by itself, and those that it has under names that Transformers does not know, included."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    hf_tanhmax.vllm.register()
    config = hf_tanhmax.TanhMaxLlamaConfig(num_hidden_layers=1)
    names = [name for name in ModelRegistry.get_supported_archs() if not name.startswith("TanhMax")]
    assert {"GptOssForCausalLM", "InternLM3ForCausalLM", "LlamaModel", "Qwen3_5ForCausalLM"} <= set(names)
    for name in names:
        with pytest.raises(NotImplementedError, match=f"with the softmax class {name}, as its config is of type tanhmax_llama"):
            MODELS_CONFIG_MAP[name].verify_and_update_model_config(SimpleNamespace(hf_config=config, architecture=name))


def test_metadata_has_what_a_step_is_made_of():
    from vllm.v1.attention.backend import CommonAttentionMetadata
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionMetadata
    from vllm.v1.attention.backends.flash_attn import FlashAttentionMetadata

    needed = {"num_actual_tokens", "query_start_loc", "seq_lens", "block_table", "slot_mapping"}
    assert needed <= set(CPUAttentionMetadata.__dataclass_fields__) & set(FlashAttentionMetadata.__dataclass_fields__)
    assert {"num_reqs", "query_start_loc_cpu", "seq_lens_cpu_upper_bound"} <= set(CommonAttentionMetadata.__dataclass_fields__)


def test_a_model_with_experts_has_a_class_of_its_own(model):
    for experts, cls in ((False, model.TanhMaxForCausalLM), (True, model.TanhMaxMoEForCausalLM)):
        config = SimpleNamespace(model_config=SimpleNamespace(is_moe=experts))
        assert type(model.TanhMaxForCausalLM.__new__(model.TanhMaxForCausalLM, vllm_config=config)) is cls


def test_a_config_of_the_package_is_kept_and_another_is_made_one(model):
    config = hf_tanhmax.TanhMaxLlamaConfig(num_hidden_layers=3, tanhmax_heads=[1])
    assert model.own_config(config) is config
    foreign = SimpleNamespace(model_type="tanhmax_llama", to_dict=config.to_dict)
    made = model.own_config(foreign)
    assert type(made) is type(config)
    assert (made.num_hidden_layers, made.tanhmax_settings) == (3, config.tanhmax_settings)
    with pytest.raises(NotImplementedError, match="does not serve a TanhMax model with the model type 'llama'; convert the model"):
        model.own_config(transformers.LlamaConfig())
