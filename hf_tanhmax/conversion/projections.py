"""The projections of an attention module whose biases softmax leaves free: of keys, of values, and of the heads' outputs.

A constant along a row of scores changes no softmax weight, so a key bias is free; rows of softmax weights sum to 1, so what is taken off
the value bias may be added to the output's, times its weight. Neither holds where keys are rotated by their positions, or normalised.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..integration.hooks import computes_tanhmax
from ..integration.patching import attention_modules

# What architectures of Transformers call them. BERT's output projection is not in the module, but in `output`, beside it.
NAMES = {
    "query": ("query", "q_proj", "q_lin"),
    "key": ("key", "k_proj", "k_lin"),
    "value": ("value", "v_proj", "v_lin"),
    "output": ("o_proj", "out_proj", "out_lin"),
}


@dataclass(frozen=True)
class Projections:
    """An attention module with its projections, each of which has a bias.

    Attributes:
        name: the module's path in the model.
        module: it asks Transformers' attention interface.
        key: `[..., hidden]` to `[..., heads * head_dim]`.
        value: `[..., hidden]` to `[..., heads * value_dim]`.
        output: `[..., heads * value_dim]` to `[..., hidden]`.
    """

    name: str
    module: nn.Module
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear

    @property
    def biases(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of key, value and output."""
        return self.key.bias, self.value.bias, self.output.bias

    @torch.no_grad()
    def shift(self, key: Tensor, value: Tensor) -> None:
        """Add to the key bias, and take off the value bias what the output bias gets, in place.

        Args:
            key: `[heads * head_dim]`, float64.
            value: `[heads * value_dim]`, float64.
        """
        self.key.bias.copy_(self.key.bias.double() + key)
        before = self.value.bias.double().clone()
        self.value.bias.copy_(before - value)
        taken = before - self.value.bias.double()  # which is not quite `value` in half precision
        self.output.bias.copy_(self.output.bias.double() + self.output.weight.double() @ taken)


def find_projections(model: nn.Module, modules: list[nn.Module]) -> list[Projections]:
    """The projections of attention modules.

    Args:
        model: what the modules are in.
        modules: some of its attention modules.

    Raises:
        ValueError: weights that are not in memory, or quantised.
        NotImplementedError: a projection that is not there, has no bias or is no plain linear layer.
    """
    names = {module: name for name, module in model.named_modules()}
    return [_projections_of(model, module, names[module]) for module in modules]


def is_rotary(config: object) -> bool:
    """Whether a model rotates its keys by their positions, by its config."""
    return getattr(config, "rope_parameters", None) is not None


def refuse_rotary(config: object) -> None:
    """Refuse a model whose keys are rotated by their positions, by its config.

    Raises:
        NotImplementedError: it has `rope_parameters`.
    """
    if is_rotary(config):
        raise NotImplementedError(
            f"{getattr(config, 'model_type', type(config).__name__)!r} rotates its keys by their positions, so no key bias can balance its "
            'scores, and it cannot be aligned; convert it with shift="balanced" instead, at a polarity such as 0.2'
        )


def find_linear(model: nn.Module, module: nn.Module, role: str, *, purpose: str = "aligned") -> nn.Linear:
    """A projection of an attention module.

    Args:
        model: what the module is in.
        module: an attention module.
        role: `"query"`, `"key"`, `"value"` or `"output"`.
        purpose: what it is to be, in words, as a participle.

    Raises:
        ValueError: weights that are not in memory, or quantised.
        NotImplementedError: a projection that is not there, or is no plain linear layer.
    """
    owner = type(module).__name__
    found = next((each for name in NAMES[role] if isinstance(each := getattr(module, name, None), nn.Module)), None)
    if found is None and role == "output":
        name = next(name for name, each in model.named_modules() if each is module)
        beside = getattr(model.get_submodule(name.rpartition(".")[0]), "output", None) if name else None
        found = getattr(beside, "dense", None)
    if found is None:
        raise NotImplementedError(f"{owner} has no {role} projection of its own ({', '.join(NAMES[role])}), so it cannot be {purpose}")
    if not isinstance(found, nn.Linear):
        raise NotImplementedError(
            f"the {role} projection of {owner} is of class {type(found).__name__} and no nn.Linear, so it cannot be {purpose}; merge "
            "adapters first"
        )
    if found.weight.is_meta or not found.weight.is_floating_point():
        state = "not in memory" if found.weight.is_meta else f"quantised ({found.weight.dtype})"
        raise ValueError(
            f"the {role} projection of {owner} is {state}, so it cannot be {purpose}; take the model whole and in floating point, and save "
            "it first"
        )
    return found


def _projections_of(model: nn.Module, module: nn.Module, name: str) -> Projections:
    found = {role: find_linear(model, module, role) for role in ("key", "value", "output")}
    for role, projection in found.items():
        if projection.bias is None:
            raise NotImplementedError(
                f"the {role} projection of {type(module).__name__} has no bias, which aligning changes, so it cannot be aligned; "
                'convert it with shift="balanced" instead, at a polarity such as 0.2'
            )
    return Projections(name, module, **found)


def modules_to_align(model: nn.Module) -> list[nn.Module]:
    """The attention modules that compute TanhMax; of a softmax model all."""
    every = attention_modules(model)
    return [module for module in every if computes_tanhmax(module.config)] or every
