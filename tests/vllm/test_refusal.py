"""Settings and layers of an engine that TanhMax models do not do: one sentence each, with the version."""

import contextlib
from types import SimpleNamespace

import pytest

from hf_tanhmax.vllm import refusal
from hf_tanhmax.vllm.layer import refuse_fused_output


@pytest.fixture(autouse=True)
def _version(monkeypatch):
    monkeypatch.setattr(refusal, "engine_version", lambda: "0.32.0")


def settings(*, cache="auto", drafts=None, runner="generate", device="cpu", **parallel):
    sizes = dict.fromkeys(("tensor", "pipeline", "decode_context", "prefill_context"), 1) | parallel
    return SimpleNamespace(
        speculative_config=drafts,
        cache_config=SimpleNamespace(cache_dtype=cache),
        parallel_config=SimpleNamespace(**{f"{name}_parallel_size": size for name, size in sizes.items()}),
        device_config=SimpleNamespace(device_type=device),
        model_config=SimpleNamespace(runner_type=runner),
    )


@pytest.mark.parametrize("changes", [{}, {"cache": "bfloat16"}, {"tensor": 2}, {"pipeline": 2, "device": "cuda"}])
def test_settings_that_are_served(changes):
    refusal.SettingsCheck.verify_and_update_config(settings(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drafts": object()}, "vLLM 0.32.0 does not serve a TanhMax model with speculative decoding.*leave speculative_config out"),
        ({"runner": "pooling"}, "with classification or embeddings; leave runner and convert out"),
        ({"cache": "fp8_e4m3"}, 'with a KV cache of fp8_e4m3, whose keys have scales; set kv_cache_dtype to "auto"'),
        ({"decode_context": 2}, "with context parallelism.*set decode_context_parallel_size to 1"),
        ({"prefill_context": 2}, "with context parallelism.*set prefill_context_parallel_size to 1"),
        ({"pipeline": 2}, "vLLM 0.32.0 does not .* with pipeline parallelism on the CPU.*set pipeline_parallel_size to 1"),
    ],
)
def test_settings_that_are_refused(changes, message):
    with pytest.raises(NotImplementedError, match=message):
        refusal.refuse_settings(settings(**changes))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model_type": "llama"}, None),
        ({"model_type": "llama", "tanhmax_polarity": None}, None),
        ({"model_type": "tanhmax_llama"}, "its config is of type tanhmax_llama"),
        ({"model_type": "llama", "tanhmax_shift": "balanced", "tanhmax_polarity": 1.0}, "its config has tanhmax_polarity, tanhmax_shift"),
        ({"model_type": "llama", "tanhmax_kernel": "you/tanhmax"}, "its config has tanhmax_kernel"),
    ],
)
@pytest.mark.parametrize("of_the_engine", [True, False])
def test_a_softmax_class_serves_softmax_checkpoints_alone(values, reason, of_the_engine):
    model_config, check = SimpleNamespace(hf_config=SimpleNamespace(**values), architecture="LlamaForCausalLM"), refusal.SoftmaxCheck()
    message = f"with the softmax class LlamaForCausalLM, as {reason}; leave architectures and model_type as the checkpoint has them"
    with contextlib.nullcontext() if reason is None else pytest.raises(NotImplementedError, match=message):
        if of_the_engine:
            check.verify_and_update_config(SimpleNamespace(model_config=model_config))
        else:
            check.verify_and_update_model_config(model_config)


def layer(*, backend="CPU_ATTN", kind="decoder", cache="auto", value_size=32, **impl):
    return SimpleNamespace(
        layer_name="model.layers.0.self_attn.attn",
        attn_backend=SimpleNamespace(get_name=lambda: backend),
        attn_type=kind,
        kv_cache_dtype=cache,
        head_size=32,
        head_size_v=value_size,
        impl=SimpleNamespace(**{"sinks": None, "alibi_slopes": None, "kv_sharing_target_layer_name": None, **impl}),
    )


@pytest.mark.parametrize("backend", ["CPU_ATTN", "FLASH_ATTN"])
def test_layers_that_are_taken_over(backend):
    refusal.refuse_layer(layer(backend=backend))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "FLASHINFER"}, "with the attention backend FLASHINFER.*start it with --attention-backend FLASH_ATTN"),
        ({"sinks": object()}, "with attention sinks, as model.layers.0.self_attn.attn has"),
        ({"alibi_slopes": object()}, "with ALiBi"),
        ({"kv_sharing_target_layer_name": "model.layers.0"}, "with layers that share keys"),
        ({"kind": "encoder_only"}, "with attention of type encoder_only.*serve a causal language model"),
        ({"cache": "fp8"}, "with a KV cache of fp8, as"),
        ({"value_size": 16}, "with values of another size than keys"),
    ],
)
def test_layers_that_are_refused(changes, message):
    with pytest.raises(NotImplementedError, match=message):
        refusal.refuse_layer(layer(**changes))


def test_a_quantized_output_is_refused():
    refuse_fused_output(None, None)
    with pytest.raises(NotImplementedError, match="with fused quantization of attention outputs"):
        refuse_fused_output(None, object())
