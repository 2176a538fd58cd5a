"""What is registered with vLLM, and with a vLLM that is absent or was not tried."""

import sys
from types import SimpleNamespace

import pytest

import hf_tanhmax
from hf_tanhmax import vllm


class Registry:
    """Takes down what is registered."""

    def __init__(self):
        self.models = {"InternLM3ForCausalLM": "a class of LLaMA by another name"}

    def get_supported_archs(self):
        return self.models.keys()

    def register_model(self, name, place):
        self.models[name] = place


@pytest.fixture
def registry(monkeypatch):
    found, table = Registry(), {}
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(ModelRegistry=found))
    monkeypatch.setitem(sys.modules, "vllm.model_executor.models.config", SimpleNamespace(MODELS_CONFIG_MAP=table))
    found.checks = table
    return found


def test_every_causal_language_model_is_registered_lazily(registry, monkeypatch):
    monkeypatch.setattr(vllm, "engine_version", lambda: "0.32.1")
    assert hf_tanhmax.TanhMaxLlamaForCausalLM  # which adds its name to the table of Transformers
    vllm.register()
    vllm.register()
    for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Mixtral"):
        assert registry.models[f"TanhMax{name}ForCausalLM"] == "hf_tanhmax.vllm.model:TanhMaxForCausalLM"
    own = set(registry.models) - {"InternLM3ForCausalLM"}
    assert all(name.startswith("TanhMax") and name.count("TanhMax") == 1 for name in own)
    assert set(registry.checks) == set(registry.models) | {name.removeprefix("TanhMax") for name in own}


def test_what_vllm_checks_itself_is_checked_as_ever(registry, monkeypatch):
    monkeypatch.setattr(vllm, "engine_version", lambda: "0.32.1")
    called = []
    registry.checks["GptOssForCausalLM"] = SimpleNamespace(
        verify_and_update_config=called.append, verify_and_update_model_config=called.append
    )
    vllm.register()
    vllm.register()
    model_config = SimpleNamespace(hf_config=SimpleNamespace(model_type="gpt_oss"))
    check, engine = registry.checks["GptOssForCausalLM"], SimpleNamespace(model_config=model_config)
    check.verify_and_update_model_config(model_config)
    check.verify_and_update_config(engine)
    assert called == [model_config, engine]


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "1.0", "0.9.2+cpu"])
def test_another_version_registers_what_refuses(registry, monkeypatch, version):
    monkeypatch.setattr(vllm, "engine_version", lambda: version)
    vllm.register()
    module, name = registry.models["TanhMaxLlamaForCausalLM"].split(":")
    assert not registry.checks
    refused = getattr(sys.modules.get(module) or __import__(module, fromlist=[name]), name)
    with pytest.raises(
        ImportError, match=r"vLLM .* is installed, and TanhMax models are served by 0.32.0 and later below 0.33.*pip install"
    ):
        refused(vllm_config=None)


@pytest.mark.parametrize("version", ["0.32.0", "0.32.5", "0.32.0+cpu", "0.32.1rc1"])
def test_versions_that_serve(monkeypatch, version):
    monkeypatch.setattr(vllm, "engine_version", lambda: version)
    assert vllm.untried() is None


def test_without_vllm_the_pip_line_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r'served by vLLM, which is not installed: pip install "vllm>=0.32.0,<0.33"'):
        vllm.register()
