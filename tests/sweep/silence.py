"""Which softmax over attention scores a forward calls, other than inside TanhMax attention: seen where torch dispatches its operators."""

import sys
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

ATTENDING = ("scaled_dot_product", "multi_head_attention", "transformer_encoder_layer", "flash_attention", "efficient_attention")


class Spy(TorchDispatchMode):
    """Notes each softmax over attention scores, as the class of the module that calls it and its line.

    A softmax of `[batch, heads, queries, keys]` is one, and of three dimensions in a module whose class is called an attention. Others
    choose experts, or give probabilities of words.
    """

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        attending = any(word in name for word in ATTENDING)
        if attending or "softmax" in name:
            owner, place, ours = _caller()
            dims = args[0].dim() if args else 0
            if not ours and (attending or dims > 3 or (dims == 3 and "attention" in owner.lower())):
                self.called.append(f"{owner}({place}, {name} of {tuple(args[0].shape)})")
        return func(*args, **(kwargs or {}))


def _caller() -> tuple[str, str, bool]:
    """The class of the module that the innermost frame outside torch belongs to, its place, and whether TanhMax attention is running."""
    frame: Any = sys._getframe(2)
    owner, place, ours = "", "", False
    while frame is not None:
        file = frame.f_code.co_filename
        ours |= "/hf_tanhmax/attention/" in file
        module = frame.f_locals.get("self")
        if not owner and isinstance(module, nn.Module):
            owner = type(module).__name__
        if not place and "/torch/" not in file and "/sweep/" not in file:
            place = f"{file.rsplit('/', 1)[1]}:{frame.f_lineno}"
        frame = frame.f_back
    return owner, place, ours


def softmaxes(model: nn.Module, inputs: dict, run: Callable) -> list[str]:
    """What is noted while a model runs."""
    with Spy() as spy:
        run(model, inputs)
    return spy.called
