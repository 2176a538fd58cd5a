r"""Rank collapse: how fast attention drives all tokens of a sequence to the same vector (Dong, Cordonnier and Loukas 2021).

For hidden states :math:`X` of shape [tokens, size] with the mean row :math:`x`,

.. math:: \mathrm{res}(X) = X - \mathbf 1 x^\top, \qquad \text{ratio} = \|\mathrm{res}(X)\| / \|X\|

after every layer. A ratio of 0 means that all tokens are one vector. Skip connections and MLPs, which hold softmax attention up, can be
taken away: hooks on the modules of the layers replace what they are given or give, and no forward pass is rewritten. Layer norms stay.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NORMS = ("frobenius", "composite")
POST_NORM = ("attention.output.dense", "intermediate", "output")
# First norm, attention, second norm, MLP.
PRE_NORM = (
    ("layernorm_before", "attention", "layernorm_after", "mlp"),
    ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp"),
)
OTHER_ORDER = ("pre_feedforward_layernorm", "crossattention")  # layers that compute something more


@dataclass(frozen=True)
class RankCollapse:
    """Norms after every layer, each the mean over the sequences of a batch; float64.

    Attributes:
        ratio: of the residual to the whole, [layers + 1]; the first is the input of the first layer; 0 where the whole is 0.
        residual: norm of what is left without the mean row, [layers + 1].
        norm: of the hidden states, [layers + 1].
        attention_norm: of what each attention gives, before anything is added to it or normalised, [layers].
    """

    ratio: Tensor
    residual: Tensor
    norm: Tensor
    attention_norm: Tensor


def rank_collapse(
    model: nn.Module, inputs: Mapping[str, Tensor], *, skip: bool = True, mlp: bool = True, norm: str = "frobenius"
) -> RankCollapse:
    """Residual and norm of the hidden states after every layer of a BERT, ViT or LLaMA model, with or without parts of its layers.

    Args:
        model: any head; softmax or TanhMax; evaluated without dropout and put back as it was. In float64 small ratios are exact.
        inputs: what the model is called with; padding by `attention_mask` [batch, tokens] is left out of the norms.
        skip: whether the skip connections are there, of attention and MLP alike.
        mlp: whether the MLPs are there.
        norm: "frobenius", or "composite": sqrt(largest column sum * largest row sum of |X|), which Dong et al. prove their bound for
            and which the mean row does not minimise, so that a ratio may exceed 1.

    Raises:
        ValueError: an unknown norm, layers of another build, or hidden states that are not finite.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, but is {norm!r}")
    layers = _layers(model)
    attach = _attach_post_norm if _matches(layers[0], POST_NORM) else _attach_pre_norm
    hidden: list[Tensor] = []
    attended: list[Tensor] = []
    handles: list[Any] = []
    for layer in layers:
        handles += attach(layer, attended.append, skip=skip, mlp=mlp)
        handles.append(layer.register_forward_hook(lambda _, __, output: hidden.append(_first(output))))
    handles.append(
        layers[0].register_forward_pre_hook(lambda _, given, named: hidden.append(_given(given, named)), with_kwargs=True, prepend=True)
    )
    try:
        with _evaluated(model), torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    mask = inputs.get("attention_mask")
    keep = mask.bool() if mask is not None and mask.dim() == 2 else torch.ones(hidden[0].shape[:2], dtype=torch.bool)
    whole, residual = (
        torch.stack([_norms(layer, keep.to(layer.device), norm, centred=part) for layer in hidden]) for part in (False, True)
    )
    ratio = residual / whole.masked_fill(whole == 0, 1.0)
    attention = torch.stack([_norms(layer, keep.to(layer.device), norm, centred=False) for layer in attended])
    return RankCollapse(ratio=ratio.mean(1), residual=residual.mean(1), norm=whole.mean(1), attention_norm=attention.mean(1))


def _layers(model: nn.Module) -> list[nn.Module]:
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) and all(_known(layer) for layer in module):
            return list(module)
    raise ValueError(
        f"{type(model).__name__} has no layers of attention and MLP that are built as those of BERT, ViT or LLaMA, so its rank collapse "
        "cannot be measured"
    )


def _known(layer: nn.Module) -> bool:
    simple = not any(hasattr(layer, name) for name in OTHER_ORDER)
    return simple and any(_matches(layer, names) for names in (POST_NORM, *PRE_NORM))


def _matches(layer: nn.Module, names: tuple[str, ...]) -> bool:
    there = {name for name, _ in layer.named_modules()}
    return there.issuperset(names)


def _attach_post_norm(layer: Any, attended: Callable[[Tensor], None], *, skip: bool, mlp: bool) -> Iterator[Any]:
    """Hooks on a layer such as BERT's: `attention.output` and `output` are given a tensor and the one to add to it before the norm."""
    yield layer.attention.output.dense.register_forward_hook(lambda _, __, output: attended(output))
    if not skip:
        yield layer.attention.output.register_forward_pre_hook(lambda _, given: (given[0], torch.zeros_like(given[1])))
    if not mlp:
        yield layer.output.register_forward_hook(lambda _, given, __: given[1])
    elif not skip:
        yield layer.output.register_forward_pre_hook(lambda _, given: (given[0], torch.zeros_like(given[1])))


def _attach_pre_norm(layer: Any, attended: Callable[[Tensor], None], *, skip: bool, mlp: bool) -> Iterator[Any]:
    """Hooks on a layer such as LLaMA's or ViT's, which adds its input to what attention makes of the norm of it, and the same for the MLP.

    Without skip connections the layer is given 0, and what it would have been given reaches its norm directly; likewise in the middle.
    """
    before, attention, after, feed_forward = next(names for names in PRE_NORM if _matches(layer, names))
    passed: dict[str, Tensor] = {}

    def layer_given(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        passed["input"] = _given(given, named)
        nothing = torch.zeros_like(passed["input"])
        return ((nothing, *given[1:]), named) if given else (given, {**named, "hidden_states": nothing})

    def attention_gives(_: nn.Module, __: Any, output: tuple[Any, ...]) -> tuple[Any, ...] | None:
        attended(output[0])
        if skip or not mlp:
            return None
        passed["attended"] = output[0]
        return (torch.zeros_like(output[0]), *output[1:])

    yield getattr(layer, attention).register_forward_hook(attention_gives)
    if not skip:
        yield layer.register_forward_pre_hook(layer_given, with_kwargs=True)
        yield getattr(layer, before).register_forward_pre_hook(lambda _, __: (passed["input"],))
    if not mlp:
        yield getattr(layer, feed_forward).register_forward_hook(lambda _, __, output: torch.zeros_like(output))
    elif not skip:
        yield getattr(layer, after).register_forward_pre_hook(lambda _, __: (passed["attended"],))


def _given(given: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
    return given[0] if given else named["hidden_states"]


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _norms(hidden: Tensor, keep: Tensor, norm: str, *, centred: bool) -> Tensor:
    """Of each sequence's kept rows, [batch], on the CPU."""
    found = []
    for rows, kept in zip(hidden, keep, strict=True):
        matrix = rows[kept].double()
        if not bool(matrix.isfinite().all()):
            raise ValueError("the model's hidden states are not finite; its weights or its inputs hold NaN or infinity, or it overflows")
        if centred:
            matrix = matrix - matrix.mean(0)
        size = matrix.abs()
        found.append(matrix.norm() if norm == "frobenius" else (size.sum(0).max() * size.sum(1).max()).sqrt())
    return torch.stack(found).cpu()


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
