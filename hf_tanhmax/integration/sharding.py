"""Parameters that processes share out, read whole: a DTensor of FSDP 2 or of tensor parallelism, and a parameter of DeepSpeed's ZeRO-3.

ZeRO-3 leaves an empty tensor in a parameter's place while no module computes with it, so that what reads it must gather it first.
"""

from importlib import import_module
from typing import Any

from torch import Tensor, nn


def whole_parameter(parameter: nn.Parameter) -> Tensor:
    """The values of a parameter, without gradient, gathered where processes share it out; then every process must ask for it."""
    shared: Any = parameter
    if hasattr(shared, "full_tensor"):
        return shared.detach().full_tensor()
    if hasattr(shared, "ds_id"):
        with import_module("deepspeed").zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter.detach()


def number_of_values(parameter: nn.Parameter) -> int:
    """How many values a parameter has, on all processes together."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
