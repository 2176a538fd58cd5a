r"""Rank collapse: how fast attention drives all tokens of a sequence to the same vector (Dong, Cordonnier and Loukas 2021).

For hidden states :math:`X` of shape [tokens, size] with the mean row :math:`x`,

.. math:: \mathrm{res}(X) = X - \mathbf 1 x^\top, \qquad \text{ratio} = \|\mathrm{res}(X)\| / \|X\|

after every layer. A ratio of 0 means that all tokens are one vector. Skip connections and MLPs, which counteract the collapse, can be
taken away: hooks on the modules of the layers replace their inputs or outputs, and no forward pass is rewritten. Layer norms stay.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...integration.hooks import without_dropout
from .decomposition.layers import first_of, is_post_norm, known_layers, pre_norm_names

NORMS = ("frobenius", "composite")

Arguments: TypeAlias = tuple[Tensor, ...]
KeywordArguments: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class RankCollapse:
    """Norms after every layer, each the mean over the sequences of a batch; float64.

    Attributes:
        ratio: norm of the residual over the whole norm, [layers + 1]; the first is the input of the first layer; 0 where the norm is 0.
        residual: norm of the hidden states less their mean row, [layers + 1].
        norm: of the hidden states, [layers + 1].
        attention_norm: of the output of each attention, before anything is added to it or normalised, [layers].
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
        ValueError: an unknown norm, layers of another architecture, or hidden states that are not finite.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, but is {norm!r}")
    hidden, attended = _hidden_states(model, inputs, skip=skip, mlp=mlp)
    mask = inputs.get("attention_mask")
    keep = mask.bool() if mask is not None and mask.dim() == 2 else torch.ones(hidden[0].shape[:2], dtype=torch.bool)
    whole, residual = (
        torch.stack([_norms(layer, keep.to(layer.device), norm, centred=centred) for layer in hidden]) for centred in (False, True)
    )
    ratio = residual / whole.masked_fill(whole == 0, 1.0)
    attention = torch.stack([_norms(layer, keep.to(layer.device), norm, centred=False) for layer in attended])
    return RankCollapse(ratio=ratio.mean(1), residual=residual.mean(1), norm=whole.mean(1), attention_norm=attention.mean(1))


def _hidden_states(model: nn.Module, inputs: Mapping[str, Tensor], *, skip: bool, mlp: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden states before the first layer and after each, and the output of each attention, `[batch, tokens, size]`."""
    layers = known_layers(model)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layers of attention and MLP that are built as those of BERT, ViT or LLaMA, so its rank "
            "collapse cannot be measured"
        )
    attach = _attach_post_norm if is_post_norm(layers[0]) else _attach_pre_norm
    hidden: list[Tensor] = []
    attended: list[Tensor] = []
    handles: list[RemovableHandle] = []
    for layer in layers:
        handles += attach(layer, attended.append, skip=skip, mlp=mlp)
        handles.append(layer.register_forward_hook(lambda _, __, output: hidden.append(first_of(output))))
    handles.append(
        layers[0].register_forward_pre_hook(
            lambda _, arguments, keywords: hidden.append(_hidden_argument(arguments, keywords)), with_kwargs=True, prepend=True
        )
    )
    try:
        with without_dropout(model), torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return hidden, attended


def _attach_post_norm(layer: nn.Module, attended: Callable[[Tensor], None], *, skip: bool, mlp: bool) -> Iterator[RemovableHandle]:
    """Hooks on a layer such as BERT's: `attention.output` and `output` take a tensor and the one to add to it before the norm."""
    attention_output, output = layer.get_submodule("attention.output"), layer.get_submodule("output")

    def _without_skip(_: nn.Module, arguments: Arguments) -> Arguments:
        return arguments[0], torch.zeros_like(arguments[1])

    yield attention_output.get_submodule("dense").register_forward_hook(lambda _, __, dense: attended(dense))
    if not skip:
        yield attention_output.register_forward_pre_hook(_without_skip)
    if not mlp:
        yield output.register_forward_hook(lambda _, arguments, __: arguments[1])
    elif not skip:
        yield output.register_forward_pre_hook(_without_skip)


def _attach_pre_norm(layer: nn.Module, attended: Callable[[Tensor], None], *, skip: bool, mlp: bool) -> Iterator[RemovableHandle]:
    """Hooks on a layer such as LLaMA's or ViT's, which adds its input to the attention of its norm, and the same for the MLP.

    Without skip connections the layer is called with 0, and its actual input goes to its norm directly; likewise in the middle.
    """
    names = pre_norm_names(layer)
    attention_norm, attention, mlp_norm, feed_forward = (layer.get_submodule(name) for name in names)
    inputs: dict[nn.Module, Tensor] = {}

    def _zero_input(_: nn.Module, arguments: Arguments, keywords: KeywordArguments) -> tuple[Arguments, KeywordArguments]:
        inputs[attention_norm] = _hidden_argument(arguments, keywords)
        zeros = torch.zeros_like(inputs[attention_norm])
        return ((zeros, *arguments[1:]), keywords) if arguments else (arguments, {**keywords, "hidden_states": zeros})

    def _after_attention(_: nn.Module, __: Arguments, output: Arguments) -> Arguments | None:
        attended(output[0])
        if skip or not mlp:
            return None
        inputs[mlp_norm] = output[0]
        return torch.zeros_like(output[0]), *output[1:]

    def _actual_input(module: nn.Module, _: Arguments) -> Arguments:
        return (inputs[module],)

    yield attention.register_forward_hook(_after_attention)
    if not skip:
        yield layer.register_forward_pre_hook(_zero_input, with_kwargs=True)
        yield attention_norm.register_forward_pre_hook(_actual_input)
    if not mlp:
        yield feed_forward.register_forward_hook(lambda _, __, output: torch.zeros_like(output))
    elif not skip:
        yield mlp_norm.register_forward_pre_hook(_actual_input)


def _hidden_argument(arguments: Arguments, keywords: Mapping[str, Tensor]) -> Tensor:
    return arguments[0] if arguments else keywords["hidden_states"]


def _norms(hidden: Tensor, keep: Tensor, norm: str, *, centred: bool) -> Tensor:
    """Norm of each sequence's kept rows, [batch], float64 on the CPU."""
    norms = []
    for rows, kept in zip(hidden, keep, strict=True):
        matrix = rows[kept].double()
        if not bool(matrix.isfinite().all()):
            raise ValueError("the model's hidden states are not finite; its weights or its inputs hold NaN or infinity, or it overflows")
        if centred:
            matrix = matrix - matrix.mean(0)
        absolute = matrix.abs()
        norms.append(matrix.norm() if norm == "frobenius" else (absolute.sum(0).max() * absolute.sum(1).max()).sqrt())
    return torch.stack(norms).cpu()
