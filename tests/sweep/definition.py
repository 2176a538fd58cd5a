"""TanhMax attention as it is printed, sinh over cosh in float64, for any architecture; it shares no code with the package.

Given by Transformers' attention interface, it makes the oracle out of an upstream model. It also notes what is special about the
attention that it was asked for.
"""

import copy
import functools
import unittest.mock
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

SPECIAL: set[str] = set()  # what was seen since it was last cleared
KEYLESS = "queries without keys, which give 0"


def definition(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, *, polarity: float = 1.0, **kwargs
) -> tuple[Tensor, Tensor | None]:
    """Output `[batch, queries, heads, value_dim]`, and weights `[batch, heads, queries, keys]` where the implementation gives them."""
    _note(module, query, key, attention_mask, kwargs)
    groups = query.shape[1] // key.shape[1]
    dtype, query, key, value = query.dtype, query.double(), key.double(), value.double()
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if kwargs.get("scaling") is None else kwargs["scaling"]
    scores = query @ key.transpose(-1, -2) * scale
    if kwargs.get("softcap") is not None:
        scores = kwargs["softcap"] * torch.tanh(scores / kwargs["softcap"])
    shares = _shares(module, scores, attention_mask, kwargs)
    top = torch.where(shares > 0, scores.abs(), 0).amax(-1, keepdim=True)  # a factor of both sums, for the exponentials to be finite
    if not (shares > 0).any(-1).all():
        SPECIAL.add(KEYLESS)
    up, down = shares * torch.exp(scores - top), polarity * shares * torch.exp(-scores - top)
    weights = torch.where(shares > 0, up - down, 0) / torch.where(shares > 0, up + down, 0).sum(-1, keepdim=True).clamp_min(1e-300)
    asked = kwargs.get("output_attentions") or module.config._attn_implementation == "eager"
    return (weights @ value).transpose(1, 2).to(dtype).contiguous(), weights.to(dtype) if asked else None


def _shares(module: nn.Module, scores: Tensor, mask: Tensor | None, kwargs: dict) -> Tensor:
    """What multiplies each exponential: 0 where a key is hidden, and the exponential of what is added to the scores."""
    shares = torch.ones_like(scores)
    if mask is None and module.config._attn_implementation != "eager":  # which has no other causality than its mask
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        if causal and scores.shape[-2] > 1:
            shares = shares.tril()
    for added in (mask, kwargs.get("position_bias")):
        if added is not None:
            added = added[..., : scores.shape[-1]]
            hidden = ~added if added.dtype == torch.bool else added <= torch.finfo(added.dtype).min / 2
            shares = shares * torch.where(hidden, 0.0, 1.0 if added.dtype == torch.bool else torch.exp(added.double()))
    return shares


def _note(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, kwargs: dict) -> None:
    if query.shape[1] != key.shape[1]:
        SPECIAL.add("grouped keys")
    if kwargs.get("softcap") is not None:
        SPECIAL.add("softcap")
    if kwargs.get("position_bias") is not None or _adds(mask):
        SPECIAL.add("additive bias")
    if kwargs.get("sliding_window") is not None:
        SPECIAL.add("sliding window")
    if query.shape[2] != key.shape[2] and query.shape[2] > 1:
        SPECIAL.add("cross attention")


def _adds(mask: Tensor | None) -> bool:
    """Whether a mask does more than hide keys."""
    if mask is None or mask.dtype == torch.bool:
        return False
    return bool(((mask != 0) & (mask > torch.finfo(mask.dtype).min / 2)).any())


def configs_of(model: PreTrainedModel) -> Iterator:
    """Every config that a part of a model asks, each once."""
    found, waiting = {}, [module.config for module in model.modules() if hasattr(module, "config")]
    while waiting:
        config = waiting.pop()
        if id(config) not in found and hasattr(config, "sub_configs"):
            found[id(config)] = config
            waiting += [part for name in config.sub_configs if (part := getattr(config, name, None)) is not None]
    yield from found.values()


def answer(model: PreTrainedModel, implementation: str) -> PreTrainedModel:
    """Let all parts of a model that ask for an attention implementation get this one."""
    for config in configs_of(model):
        config._attn_implementation = implementation
    return model


def oracle(model: PreTrainedModel, polarity: float = 1.0) -> PreTrainedModel:
    """A copy of an upstream model for which the attention interface gives the definition, by whatever name it is asked.

    The name stays what it is, and with it the masks that the model makes, also for parts that compute softmax themselves.
    """
    printed = copy.deepcopy(model)
    forward, attention = printed.forward, functools.partial(definition, polarity=polarity)

    def forward_of_definition(*args, **kwargs):
        with (
            unittest.mock.patch.object(AttentionInterface, "get_interface", return_value=attention),
            unittest.mock.patch.object(AttentionInterface, "__getitem__", return_value=attention),
        ):
            return forward(*args, **kwargs)

    printed.forward = forward_of_definition
    return printed
