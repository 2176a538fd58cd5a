"""AttnLRP (Achtibat et al. 2024): relevance of every position, propagated from a logit through all layers down to the first.

Positions are scored where they enter the first layer, so that position and segment embeddings count for their token, and a class token of
an image has a score of its own. Scores are in logits and add up to the logit but for what biases and the attention map keep; see
`rules.relevance_attention`. Linear layers follow the plain rule of a product (LRP-0); the gamma rule that the paper adds for images is
left out.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ....integration.hooks import AttentionCall, replace_attention
from ....integration.patching import attention_modules
from ..forward_passes import without_cache
from ..target import Target, logits_of
from .layers import known_layers, layer_parts
from .rules import ELEMENTWISE, GATED, is_rms_norm, linear_norms_and_activations, relevance_attention


def attnlrp(
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    target: Target,
    attention: Callable[[AttentionCall], tuple[Tensor, Tensor | None]] = relevance_attention,
) -> Tensor:
    """Relevance of every position for the target's logit, `[K]` float32 on the CPU.

    Args:
        model: in evaluation mode, gradients enabled; one that `check_rules` accepts.
        inputs: a batch of one.
        target: which logit.
        attention: computes attention with the gradients of its rule.
    """
    modules = attention_modules(model)
    with linear_norms_and_activations(model), replace_attention(modules, attention), first_hidden(model) as hidden:
        logit = target.of(logits_of(model(**inputs, **without_cache(model)), model)).sum()
        (gradient,) = torch.autograd.grad(logit, hidden)
    return (hidden[0].detach() * gradient)[0].float().sum(-1).cpu()


def check_rules(model: nn.Module) -> None:
    """Refuse a model that has parts without a rule.

    Raises:
        ValueError: its layers are not built as those of BERT, ViT or LLaMA, its MLPs have element-wise functions that are no modules or
            experts that share one tensor, or a norm is neither LayerNorm nor RMSNorm.
    """
    layer_parts(model)
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind.endswith("Norm") and not (isinstance(module, nn.LayerNorm) or is_rms_norm(module)):
            raise ValueError(f"the norm {name} is a {kind}, which has no rule")
        if any(hasattr(module, part) for part in GATED) and not isinstance(getattr(module, "down_proj", module), nn.Module):
            raise ValueError(f"{name} keeps its experts in one tensor, so they have no rule")
    for layer in known_layers(model):
        if not any(isinstance(module, ELEMENTWISE) for module in layer.modules()):
            raise ValueError("the activation of its MLPs is no module, so it has no rule")


@torch.no_grad()
def run_by_rules(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> None:
    """Run a model once, by which its norms are seen to compute what their rules are for.

    Raises:
        ValueError: one computes something else.
    """
    with linear_norms_and_activations(model):
        model(**inputs, **without_cache(model))


@contextmanager
def first_hidden(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that holds, after a forward pass, the input of the first layer, from where on gradients are computed."""
    found: list[Tensor] = []

    def _cut(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = (arguments[0] if arguments else keywords["hidden_states"]).detach().requires_grad_()
        found.append(hidden)
        return ((hidden, *arguments[1:]), keywords) if arguments else (arguments, {**keywords, "hidden_states": hidden})

    handle = known_layers(model)[0].register_forward_pre_hook(_cut, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()
