"""Which softmax over attention scores a forward calls, other than inside TanhMax attention: seen where torch dispatches its operators."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

OTHERS = (
    "HyperConnection",  # over streams of the residual, [batch, tokens, streams, streams]
    "Sam2MultiScaleAttention",  # over heads, and not used, before it asks the attention interface
)
ATTENDING = ("scaled_dot_product", "multi_head_attention", "transformer_encoder_layer", "flash_attention", "efficient_attention")


class Call(NamedTuple):
    """A softmax over attention scores: the module that calls it, the line, and the operator with its shape."""

    owner: nn.Module | None
    place: str
    what: str

    def __str__(self) -> str:
        return f"{type(self.owner).__name__}({self.place}, {self.what})"


class Spy(TorchDispatchMode):
    """Notes each softmax over attention scores.

    That is a softmax of `[batch, heads, queries, keys]` over the last, and one of three dimensions in a module whose class is called an
    attention. Others choose experts, or give probabilities of words.
    """

    def __init__(self) -> None:
        super().__init__()
        self.called: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        attending = any(word in name for word in ATTENDING)
        if attending or "softmax" in name:
            owner, place, ours = _caller()
            dims = args[0].dim() if args else 0
            other = not attending and (type(owner).__name__.endswith(OTHERS) or args[1] not in (-1, dims - 1))
            if not (ours or other) and (attending or dims > 3 or (dims == 3 and "attention" in type(owner).__name__.lower())):
                self.called.append(Call(owner, place, f"{name} of {tuple(args[0].shape)}"))
        return func(*args, **(kwargs or {}))


def _caller() -> tuple[nn.Module | None, str, bool]:
    """The innermost module that does more than a softmax, the line outside torch, and whether TanhMax attention is running."""
    frame: Any = sys._getframe(2)
    owner, place, ours = None, "", False
    while frame is not None:
        file = frame.f_code.co_filename
        ours |= "/hf_tanhmax/attention/" in file
        module = frame.f_locals.get("self")
        if owner is None and isinstance(module, nn.Module) and not isinstance(module, nn.Softmax):
            owner = module
        if not place and "/torch/" not in file and "/sweep/" not in file:
            place = f"{file.rsplit('/', 1)[1]}:{frame.f_lineno}"
        frame = frame.f_back
    return owner, place, ours


def softmaxes(model: nn.Module, inputs: dict, run: Callable) -> list[Call]:
    """What is noted while a model runs."""
    with Spy() as spy:
        run(model, inputs)
    return spy.called
