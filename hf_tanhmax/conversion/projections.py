"""The projections of an attention module whose biases softmax leaves free: of keys, of values, and of the heads' outputs.

A constant along a row of scores changes no softmax weight, so a key bias is free; rows of softmax weights sum to 1, so what is taken off
the value bias may be added to the output's, times its weight. Neither holds where keys are rotated by their positions, or normalised.
"""

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..integration.hooks import computes_tanhmax
from ..integration.patching import attention_modules

# What architectures of Transformers call them. Some keep the output projection beside the module, in `output`, as BERT does.
NAMES = {
    "query": ("query", "q_proj", "q_lin", "q", "linear_q", "to_q"),
    "key": ("key", "k_proj", "k_lin", "k", "linear_k", "to_k"),
    "value": ("value", "v_proj", "v_lin", "v", "linear_v", "to_v"),
    "output": (
        *("o_proj", "out_proj", "out_lin", "o", "Wo", "proj", "projection", "projection_layer", "dense", "c_proj", "linear_out", "output"),
        "to_out",
    ),
}
JOINED = ("qkv", "qkv_proj", "Wqkv", "query_key_value", "c_attn", "in_proj")  # queries, keys and values in one
# What a module is called that changes keys, values or outputs of heads after their projections, and what a forward names that rotates keys.
CHANGING = re.compile(r"[a-z].*(?:norm|clip|_ln|conv)\w*|(?:.*_)?g(?:ate)?_proj|gate\w*")
ROTATING = re.compile(r"rot(?:ary|ate)|(?<![a-z])rope|freqs_cis")
BALANCED = 'convert it with shift="balanced" instead, at a polarity such as 0.2'


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
        NotImplementedError: keys that are rotated by their positions; a projection that is not there, has no bias or is no plain linear
            layer.
    """
    names = {module: name for name, module in model.named_modules()}
    found = []
    for module in modules:
        linear = _with_biases(model, module)
        for role, projection in linear.items():
            _check_in_memory(projection, module, role, "aligned")
        found.append(Projections(names[module], module, **linear))
    return found


def why_not_aligned(model: nn.Module) -> str | None:
    """Why no key biases can balance the scores of a model, of those of its modules that are to compute TanhMax; None where they can.

    It is read off the modules, which may be on the meta device, and where their forward may rotate keys it is taken that it does.
    """
    for module in modules_to_align(model):
        try:
            linear = _with_biases(model, module)
            query = find_plain(model, module, "query")
        except NotImplementedError as error:
            return str(error)
        owner = type(module).__name__
        if query.out_features != linear["key"].out_features:
            return f"query heads of {owner} share keys, so no key bias is one head's own, and it cannot be aligned; {BALANCED}"
        changing = [name for name, child in module.named_children() if CHANGING.fullmatch(name) and not isinstance(child, nn.Identity)]
        if changing:
            return f"{owner} changes what its projections return ({changing[0]}), so it cannot be aligned; {BALANCED}"
        words = _words(module)
        if any(ROTATING.search(word) for word in words):
            return _rotates(owner)
        caps = [getattr(module, word, getattr(module.config, word, None)) for word in words if "softcap" in word]
        if any(isinstance(cap, int | float) for cap in caps):
            return f"{owner} caps its scores, so a key bias is no constant of a row, and it cannot be aligned; {BALANCED}"
    return None


def aligns_by_default(model: nn.Module, polarity: float | str | None) -> bool:
    """Whether a conversion aligns a model unless a shift is asked for: where key biases can balance its scores.

    Of models that read images only if a polarity is asked for, as that of a balanced shift is another. DINOv2-S lost 16 points of accuracy
    by aligning and 1 by a balanced shift, measured on CIFAR-10.

    Args:
        model: to be converted.
        polarity: that is asked for; None is none.
    """
    reads_images = getattr(model, "main_input_name", None) == "pixel_values"
    return why_not_aligned(model) is None and not (reads_images and polarity is None)


def find_linear(model: nn.Module, module: nn.Module, role: str, *, purpose: str = "aligned") -> nn.Linear:
    """A projection of an attention module, whose weights are in memory.

    Args:
        model: what the module is in.
        module: an attention module.
        role: `"query"`, `"key"`, `"value"` or `"output"`.
        purpose: what it is to be, in words, as a participle.

    Raises:
        ValueError: weights that are not in memory, or quantised.
        NotImplementedError: a projection that is not there, or is no plain linear layer.
    """
    found = find_plain(model, module, role, purpose=purpose)
    _check_in_memory(found, module, role, purpose)
    return found


def find_plain(model: nn.Module, module: nn.Module, role: str, *, purpose: str = "aligned") -> nn.Linear:
    """A projection of an attention module, wherever its weights are; arguments as `find_linear`.

    Raises:
        NotImplementedError: a projection that is not there, or is no plain linear layer.
    """
    owner, found = type(module).__name__, _named(model, module, role)
    if found is None:
        joined = next((name for name in JOINED if isinstance(getattr(module, name, None), nn.Module)), None)
        reason = f"joins it with others in {joined}" if joined and role != "output" else f"is none of {', '.join(NAMES[role])}"
        raise NotImplementedError(f"{owner} has no {role} projection of its own (it {reason}), so it cannot be {purpose}")
    if not isinstance(found, nn.Linear):
        adapted = type(found).__module__.partition(".")[0] not in ("torch", "transformers")
        raise NotImplementedError(
            f"the {role} projection of {owner} is of class {type(found).__name__} and no nn.Linear, so it cannot be {purpose}"
            + ("; merge adapters first" if adapted else "")
        )
    return found


def projections_in(model: nn.Module, module: nn.Module) -> list[nn.Module]:
    """What calibration may change of an attention module: its own linear layers, and its output projection, wherever that is."""
    output = _named(model, module, "output")
    own = [each for each in module.modules() if any(True for _ in each.parameters(recurse=False))]
    return own if output is None or output in own else [*own, output]


def modules_to_align(model: nn.Module) -> list[nn.Module]:
    """The attention modules that compute TanhMax; of a softmax model all."""
    every = attention_modules(model)
    return [module for module in every if computes_tanhmax(module.config)] or every


def _named(model: nn.Module, module: nn.Module, role: str) -> nn.Module | None:
    found = next((each for name in NAMES[role] if isinstance(each := getattr(module, name, None), nn.Module)), None)
    if isinstance(found, nn.ModuleList) and len(found):  # with a dropout
        return found[0]
    if found is None and role == "output":
        name = next(name for name, each in model.named_modules() if each is module)
        beside = getattr(model.get_submodule(name.rpartition(".")[0]), "output", None) if name else None
        found = getattr(beside, "dense", None)
    return found


def _with_biases(model: nn.Module, module: nn.Module) -> dict[str, nn.Linear]:
    """Key, value and output projection."""
    owner = type(module).__name__
    if getattr(module.config, "rope_parameters", None) is not None:
        raise NotImplementedError(_rotates(owner))
    found = {role: find_plain(model, module, role) for role in ("key", "value", "output")}
    for role, projection in found.items():
        if projection.bias is None:
            raise NotImplementedError(
                f"the {role} projection of {owner} has no bias, which aligning changes, so it cannot be aligned; {BALANCED}"
            )
    return found


def _rotates(owner: str) -> str:
    return f"{owner} rotates its keys by their positions, so no key bias can balance its scores, and it cannot be aligned; {BALANCED}"


def _check_in_memory(found: nn.Linear, module: nn.Module, role: str, purpose: str) -> None:
    if found.weight.is_meta or not found.weight.is_floating_point():
        state = "not in memory" if found.weight.is_meta else f"quantised ({found.weight.dtype})"
        raise ValueError(
            f"the {role} projection of {type(module).__name__} is {state}, so it cannot be {purpose}; take the model whole and in floating "
            "point, and save it first"
        )


def _words(module: nn.Module) -> Iterable[str]:
    """The names in the code of a module's forward, and those of its arguments."""
    code: Any = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return () if code is None else (*code.co_names, *code.co_varnames)
