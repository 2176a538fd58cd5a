"""The layers of a model: which module is the layer of an attention module, how it was called, and how it is built.

Value zeroing calls whole layers again, so any layer will do that is a module of its own. ALTI and AttnLRP treat the parts of a layer
differently, so they need to know them: those of BERT (each sum is normalised) and of ViT and LLaMA (each branch begins with a norm).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ....integration.patching import attention_modules
from ....integration.registration import HEADS_TO

POST_NORM = ("attention.output.dense", "intermediate", "output")
# First norm, attention, second norm, MLP.
PRE_NORM = (
    ("layernorm_before", "attention", "layernorm_after", "mlp"),
    ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp"),
)
EXTRA_MODULES = ("pre_feedforward_layernorm", "crossattention")  # layers that compute something more


def known_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that is built as BERT, ViT or LLaMA are; none of another."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) and all(_is_known(layer) for layer in module):
            return list(module)
    return []


def is_post_norm(layer: nn.Module) -> bool:
    """Whether a known layer is built as BERT's."""
    return _has_modules(layer, POST_NORM)


def pre_norm_names(layer: nn.Module) -> tuple[str, ...]:
    """The names of first norm, attention, second norm and MLP in a known layer that is not built as BERT's."""
    return next(names for names in PRE_NORM if _has_modules(layer, names))


def _is_known(layer: nn.Module) -> bool:
    plain = not any(hasattr(layer, name) for name in EXTRA_MODULES)
    return plain and any(_has_modules(layer, names) for names in (POST_NORM, *PRE_NORM))


def _has_modules(layer: nn.Module, names: tuple[str, ...]) -> bool:
    return {name for name, _ in layer.named_modules()}.issuperset(names)


@dataclass(frozen=True)
class LayerParts:
    """The parts of a layer that is built as those of BERT, ViT or LLaMA.

    Attributes:
        attention: the module that asks Transformers' attention interface.
        projection: takes the outputs of all heads, side by side, to the residual stream.
        branch: the module whose output the MLP adds to the residual stream.
        norm: of the sum of attention and residual stream, in a layer such as BERT's; None where norms begin the branches.
        reader: the module that reads that sum: the same norm, or the one that begins the branch of the MLP.
    """

    attention: nn.Module
    projection: nn.Module
    branch: nn.Module
    norm: nn.LayerNorm | None
    reader: nn.Module


def layer_parts(model: nn.Module) -> list[LayerParts]:
    """The parts of every layer of a model, in the order of its attention modules.

    Raises:
        ValueError: a layer is built otherwise, or the model has attention outside its layers.
    """
    layers, modules = known_layers(model), attention_modules(model)
    if len(layers) != len(modules) or not layers:
        raise ValueError("its layers are not built as those of BERT, ViT or LLaMA")
    return [_parts(layer, module) for layer, module in zip(layers, modules, strict=True)]


def _parts(layer: nn.Module, attention: nn.Module) -> LayerParts:
    if attention not in set(layer.modules()):
        raise ValueError("it has attention outside its layers")
    if is_post_norm(layer):
        norms = [module for module in layer.get_submodule("attention.output").children() if isinstance(module, nn.LayerNorm)]
        if len(norms) != 1:
            raise ValueError("the norms of its layers are not LayerNorm")
        return LayerParts(attention, layer.get_submodule("attention.output.dense"), layer.get_submodule("output.dense"), norms[0], norms[0])
    names = pre_norm_names(layer)
    projection = next((getattr(attention, name) for name in HEADS_TO if hasattr(attention, name)), None)
    if projection is None:
        raise ValueError("its attention has no projection of the outputs of its heads")
    return LayerParts(attention, projection, layer.get_submodule(names[3]), None, layer.get_submodule(names[2]))


def enclosing_layers(model: nn.Module, layers: tuple[int, ...]) -> list[nn.Module]:
    """The module that is the layer of each attention module: the largest in a list of modules that holds no other of them.

    Args:
        model: any model.
        layers: indices of attention modules.

    Raises:
        ValueError: an attention module is in no such module.
    """
    modules = attention_modules(model)
    wanted = [modules[layer] for layer in layers]
    elements = [element for parent in model.modules() if isinstance(parent, nn.ModuleList) for element in parent]
    found = [next((element for element in elements if _holds_only(element, module, wanted)), None) for module in wanted]
    layers_found = [layer for layer in found if layer is not None]
    if len(layers_found) != len(found):
        raise ValueError("its layers are not modules in a list, so they cannot be called again by themselves")
    return layers_found


def _holds_only(element: nn.Module, wanted: nn.Module, others: list[nn.Module]) -> bool:
    inside = set(element.modules())
    return wanted in inside and sum(other in inside for other in others) == 1


@dataclass
class LayerCall:
    """How a layer was called: the arguments, of which the first is the hidden states `[1, K, D]`, and its output `[1, K, D]`."""

    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    output: Tensor | None = None

    @property
    def hidden(self) -> Tensor:
        """The hidden states that the layer was given."""
        return self.arguments[0] if self.arguments else self.keywords["hidden_states"]


@contextmanager
def record_calls(layers: list[nn.Module]) -> Iterator[list[LayerCall]]:
    """Record how layers are called in a `with` block; the last call of each is kept.

    Args:
        layers: modules of one tensor of hidden states.

    Yields:
        One call per layer, filled by a forward pass.
    """
    calls = [LayerCall() for _ in layers]

    def _recorder(call: LayerCall) -> Any:
        def _record(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            call.arguments, call.keywords, call.output = arguments, keywords, first_of(output)

        return _record

    handles = [layer.register_forward_hook(_recorder(call), with_kwargs=True) for layer, call in zip(layers, calls, strict=True)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def first_of(output: Any) -> Any:
    """The hidden states of a layer's output, which may be a tuple."""
    return output[0] if isinstance(output, tuple) else output


def repeated(value: Any, count: int) -> Any:
    """An argument of a call with one input as that of a call with `count` of the same."""
    if isinstance(value, Tensor):
        return value.expand(count, *value.shape[1:]) if value.dim() > 1 and value.shape[0] == 1 else value
    if isinstance(value, tuple | list):
        return type(value)(repeated(part, count) for part in value)
    return {name: repeated(part, count) for name, part in value.items()} if isinstance(value, dict) else value


def rolled_out(matrices: list[Tensor]) -> Tensor:
    """Matrices `[Q, K]` of every layer, the first layer first, multiplied up: how much of input K is in output Q of the last."""
    product = torch.eye(matrices[0].shape[-1], dtype=matrices[0].dtype)
    for matrix in matrices:
        product = matrix @ product
    return product


def as_shares(sizes: Tensor) -> Tensor:
    """Rows of sizes `[Q, K]` divided by their sums; a row of zeros is the position itself, whose residual stream is all there is."""
    total = sizes.sum(-1, keepdim=True)
    own = torch.eye(sizes.shape[-1], dtype=sizes.dtype, device=sizes.device)
    return torch.where(total > 0, sizes / total.masked_fill(total == 0, 1), own)
