"""Which modules of a model compute attention, and how: through Transformers' attention interface, or by themselves.

Transformers has no public way to ask. What a module's forward does is read from its source (`forward_source`), once per class.
"""

import functools
import inspect
import types
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from ..registration import EAGER, FUSED, PAGED, REFUSED
from .dataflow import SELF, WEIGHTS, Instance, Method, of_torch, unbound
from .forward_source import Reading


class AttentionFacts(NamedTuple):
    """What a module does.

    Attributes:
        asks: it asks the attention interface, for what its own config answers, so that it can be patched.
        bypasses: it computes softmax attention that no patch reaches.
        refused: arguments that it hands to the interface, and that TanhMax attention refuses.
        passes: all arguments that it hands to the interface by name. Others come along with what its callers were given.
    """

    asks: bool = False
    bypasses: bool = False
    refused: tuple[str, ...] = ()
    passes: frozenset[str] = frozenset()


def attention_facts(module: nn.Module) -> AttentionFacts:
    """What a module does with attention, not counting its children."""
    cls: Any = type(module)
    if isinstance(module, nn.MultiheadAttention):
        return AttentionFacts(bypasses=True)
    if of_torch(cls):
        return AttentionFacts()
    # The class's own forward too: whatever an instance's forward is, it may call that.
    forwards = [*_unwrapped(cls.forward), *([] if of_torch(cls.__call__) else _unwrapped(cls.__call__))]
    forwards += _unwrapped(vars(module)["forward"]) if "forward" in vars(module) else []
    methods = tuple(Method(SELF, each) if inspect.isfunction(each) else unbound(each) for each in forwards)
    state = _state(module)
    # What is made for one instance may hold it, and a cache would keep it alive.
    per_class = "forward" not in vars(module) and all(_holds_nothing(value) for _, value in state)
    read = _facts if per_class else _facts.__wrapped__
    return read(cls, methods, state, hasattr(module, "config"))


def softmax_parts(model: nn.Module) -> dict[str, list[str]]:
    """The modules of a model that compute softmax attention themselves, where no patch reaches them: names of classes, and their paths."""
    found: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        if attention_facts(module).bypasses:
            found.setdefault(type(module).__name__, []).append(path)
    return dict(sorted(found.items()))


def _unwrapped(forward: object) -> list[object]:
    """A decorated function, and what the decorator hides."""
    found = [forward]
    while hasattr(found[-1], "__wrapped__"):
        found.append(found[-1].__wrapped__)
    return found


def _holds_nothing(value: object) -> bool:
    """Whether what a module keeps, a function or a child's class, keeps no object alive."""
    function = value.function if isinstance(value, Method) else value
    if isinstance(function, types.FunctionType):
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        plain = all(isinstance(default, bool | int | float | str | None) for default in defaults)
        return of_torch(function) or (plain and not function.__closure__ and not vars(function))
    if isinstance(function, types.BuiltinFunctionType):
        return isinstance(function.__self__, types.ModuleType | type | None)
    return function is None or isinstance(function, Instance)


@functools.lru_cache(maxsize=4096)
def _facts(cls: type, forwards: tuple[object, ...], state: tuple[tuple[str, object], ...], has_config: bool) -> AttentionFacts:
    reading = Reading(Instance(cls, state), (FUSED, EAGER, PAGED))
    for forward in forwards:
        reading.follow(forward)
    found = reading.found
    # A model's own forward may match two sets by a softmax of similarities, which is no attention until it weighs values.
    whole = issubclass(cls, PreTrainedModel)
    named = found.normalises and "Attention" in cls.__name__  # which is then taken at its word
    stays = (
        found.attends
        or (found.pools and not whole)
        or (found.asks and (whole or not has_config))
        or ((found.maps or named) and not found.asks and not whole)
    )
    return AttentionFacts(
        asks=found.asks and has_config and not whole,
        bypasses=stays,
        refused=tuple(sorted(found.passes.intersection(REFUSED))),
        passes=frozenset(found.passes),
    )


def _state(module: nn.Module) -> tuple[tuple[str, object], ...]:
    """Those attributes of a module that decide what its forward does: what is None, functions, and modules by their class."""
    found: dict[str, object] = {}
    for name, value in vars(module).items():
        if value is None and not name.startswith("_"):
            found[name] = None
        elif callable(value) and isinstance(called := unbound(value), Method | types.FunctionType | types.BuiltinFunctionType):
            found[name] = called
    for name, value in [*module._parameters.items(), *module._buffers.items(), *module._modules.items()]:
        if value is None:
            found[name] = None
        elif isinstance(value, nn.Module):
            container = isinstance(value, nn.Sequential | nn.ModuleList | nn.ModuleDict)
            softmax = any(map(_is_softmax, value.children() if container else [value]))
            found[name] = Instance(nn.Softmax if softmax else type(value))
    return tuple(found.items())


def _is_softmax(module: nn.Module) -> bool:
    """Whether a module without parameters gives a softmax of its input."""
    cls: Any = type(module)
    plain = not (module._parameters or module._modules or of_torch(cls))
    return isinstance(module, nn.Softmax) or (plain and _gives_weights(cls))


@functools.lru_cache(maxsize=4096)
def _gives_weights(cls: Any) -> bool:
    return WEIGHTS in Reading(Instance(cls), (FUSED, EAGER, PAGED)).follow(Method(SELF, cls.forward)).tags
