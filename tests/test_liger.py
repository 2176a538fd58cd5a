"""Liger's kernels in a TanhMax LLaMA: its norms, its SwiGLU, its rotary embeddings and its loss, around attention that stays TanhMax."""

import logging
import os

import numpy as np
import pytest
import torch
import transformers
from families import TINY, assert_same, inputs_for, naive_twin, run, tiny_model
from transformers import Trainer, TrainingArguments
from transformers.models.llama import modeling_llama

import hf_tanhmax
from hf_tanhmax.integration.patching import ConfigView, attention_modules

pytest.importorskip("liger_kernel", reason="liger-kernel is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")  # Liger passes caches by their older name
HEADS = {
    "bert": hf_tanhmax.TanhMaxBertForSequenceClassification,
    "vit": hf_tanhmax.TanhMaxViTForImageClassification,
    "llama": hf_tanhmax.TanhMaxLlamaForCausalLM,
}
INPUTS = inputs_for("llama", "AutoModelForCausalLM", labels=True)


@pytest.fixture
def liger(monkeypatch):
    """Liger, with a table as it is before any model type of ours was asked for; what it replaces in the module of LLaMA is put back."""
    from liger_kernel.transformers import monkey_patch

    for name in ("apply_rotary_pos_emb", "LlamaRMSNorm", "LlamaMLP"):
        monkeypatch.setattr(modeling_llama, name, getattr(modeling_llama, name))
    for family in TINY:
        monkeypatch.delitem(monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN, f"tanhmax_{family}", raising=False)
    if os.environ.get("TRITON_INTERPRET") == "1":
        _correct_interpreter(monkeypatch)
    return monkey_patch


def _correct_interpreter(monkeypatch):
    """Pass floats as tensors, as a GPU has them, since Python's have no `to`; and compute the one function of CUDA's library without it."""
    import triton.language as tl
    from liger_kernel.ops import rms_norm
    from triton.runtime import interpreter

    convert = interpreter._implicit_cvt

    def tensor(values):
        return tl.tensor(interpreter.TensorHandle(np.asarray(values, dtype=np.float32), tl.float32), tl.float32)

    monkeypatch.setattr(interpreter, "_implicit_cvt", lambda value: tensor([value]) if isinstance(value, float) else convert(value))
    monkeypatch.setattr(rms_norm, "rsqrt", lambda value: tensor(1 / np.sqrt(value.handle.data)))


def forwards(model):
    """The classes whose forward the norms and feed-forward layers of a LLaMA use."""
    layers = model.model.layers
    norms = [model.model.norm, *(each for layer in layers for each in (layer.input_layernorm, layer.post_attention_layernorm))]
    return {module.forward.__func__.__qualname__.split(".")[0] for module in [*norms, *(layer.mlp for layer in layers)]}


def gradients(model):
    model.zero_grad()
    model.train()(**INPUTS).loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("polarity", [1.0, 0.5, "learned"])
def test_kernels_are_put_in_and_attention_stays_tanhmax(polarity, liger):
    model = tiny_model(HEADS["llama"], tanhmax_polarity=polarity)
    if polarity == 1.0:
        assert_same(run(model, INPUTS).logits[None], run(naive_twin(model), INPUTS).logits[None])
    wanted, wanted_gradients = run(model, INPUTS), gradients(model)
    liger._apply_liger_kernel_to_instance(model=model)
    assert forwards(model) == {"LigerRMSNorm", "LigerSwiGLUMLP"}
    assert model.forward.__func__.__module__ == "liger_kernel.transformers.model.llama"
    assert modeling_llama.apply_rotary_pos_emb.__module__.startswith("liger_kernel")
    assert all(isinstance(module.config, ConfigView) for module in attention_modules(model))
    found = run(model, INPUTS)
    assert_same([found.logits, found.loss], [wanted.logits, wanted.loss])
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, wanted_gradients[name], atol=2e-5, rtol=2e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
def test_the_trainer_asks_for_it(liger, tmp_path):
    model = tiny_model(HEADS["llama"])
    arguments = TrainingArguments(
        str(tmp_path), use_liger_kernel=True, max_steps=1, report_to="none", use_cpu=not torch.cuda.is_available(), disable_tqdm=True
    )
    rows = [{name: value[0] for name, value in INPUTS.items()}] * 8
    Trainer(model, arguments, train_dataset=rows).train()
    assert forwards(model) == {"LigerRMSNorm", "LigerSwiGLUMLP"}
    assert_same(run(model, inputs_for("llama")).logits[None], run(naive_twin(model), inputs_for("llama")).logits[None])


@pytest.mark.parametrize("family", TINY)
def test_each_family_has_what_its_upstream_has(family, liger, caplog):
    for cls in (HEADS[family], HEADS[family].__mro__[1]):
        caplog.clear()
        with caplog.at_level(logging.INFO, liger.logger.name):
            liger._apply_liger_kernel_to_instance(model=tiny_model(cls))
        assert ("no Liger kernels supported" in caplog.text) == (family not in liger.MODEL_TYPE_TO_APPLY_LIGER_FN)


def test_a_softmax_checkpoint_in_a_tanhmax_class(liger, tmp_path):
    """Its config keeps the softmax model type until it is saved."""
    tiny_model(transformers.LlamaForCausalLM).save_pretrained(tmp_path)
    for model in (HEADS["llama"].from_pretrained(tmp_path), hf_tanhmax.convert(str(tmp_path))):
        liger._apply_liger_kernel_to_instance(model=model)
        assert forwards(model) == {"LigerRMSNorm", "LigerSwiGLUMLP"}
