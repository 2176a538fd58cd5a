"""Checks that a launch got what it asked for, as accelerate silently leaves out FSDP and DeepSpeed on a CPU; and signal handling.

Ctrl-C, or SIGTERM from a launcher: the step that runs is finished, a checkpoint is saved, the run ends. A second one ends it at once.
"""

import importlib.util
import os
import signal
import sys
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import RecipeError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def check_launch() -> None:
    """Refuse what this machine cannot provide. To be called first, before any process group is made.

    Raises:
        RecipeError: DeepSpeed is not installed, or sequences are to be shared out over processes.
    """
    if _asked("ACCELERATE_USE_DEEPSPEED") and importlib.util.find_spec("deepspeed") is None:
        raise RecipeError("the launch asks for DeepSpeed, which is not installed; pip install deepspeed, or launch with fsdp2.yaml instead")
    for kind, name, reason in (
        ("context", "PARALLELISM_CONFIG_CP_SIZE", "which recipes do not run, as most of their heads and metrics want whole sequences"),
        ("sequence", "PARALLELISM_CONFIG_SP_SIZE", "in which TanhMax attention would see the keys of its own process only"),
    ):
        if int(os.environ.get(name, "1")) > 1:
            raise RecipeError(
                f"the launch asks for {kind} parallelism ({name}={os.environ[name]}), {reason}; launch with {kind} parallelism of size 1"
            )


def check_switched_on(state: PartialState) -> None:
    """Fail if accelerate did not enable all that the launch asked for. To be called as soon as there is a state.

    Args:
        state: accelerate's; FSDP is still called MULTI_GPU in it before there is an `Accelerator`.

    Raises:
        RecipeError: FSDP or DeepSpeed was asked for and does not come, or processes were launched that do not know of each other.
    """
    found, launched = state.distributed_type, int(os.environ.get("WORLD_SIZE", "1"))
    for name, asked, on in (
        ("FSDP", _asked("ACCELERATE_USE_FSDP"), found not in (DistributedType.NO, DistributedType.MULTI_CPU)),
        ("DeepSpeed", _asked("ACCELERATE_USE_DEEPSPEED"), found == DistributedType.DEEPSPEED),
    ):
        if asked and not on:
            raise RecipeError(
                f"the launch asks for {name}, but accelerate runs {found.value} on {state.device.type}: it leaves {name} out in silence "
                f"where there is no accelerator; launch on GPUs with use_cpu false, or with ddp.yaml"
            )
    if launched != state.num_processes:
        raise RecipeError(
            f"{launched} processes were launched, but each trains alone (distributed type {found.value}); set use_cpu to true where there "
            f"is no accelerator"
        )


def check_agreement(settings: dict[str, object]) -> None:
    """Fail in every process if one of them was launched with other settings than the first, as machines may read other files.

    Raises:
        RecipeError: which process, and in what it differs.
    """
    first, *others = gather_object([settings])
    for process, found in enumerate(others, 1):
        differing = [name for name in sorted({*first, *found}) if first.get(name) != found.get(name)]
        if differing:
            told = ", ".join(f"{name} ({found.get(name)!r}, on the first {first.get(name)!r})" for name in differing)
            raise RecipeError(f"process {process} has other settings than the first: {told}; launch all with the same recipe and flags")


class InterruptCallback(TrainerCallback):
    """Turns a signal into a checkpoint; all processes agree on the step.

    Attributes:
        stopped: the step after which training was stopped; None if it was not.
    """

    def __init__(self) -> None:
        self.stopped: int | None = None
        self._asked = False
        self._before: dict[int, Any] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Install the signal handlers."""
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and stop, if any process was asked to."""
        if self._any_asked():
            self.stopped = state.global_step
            control.should_save = control.should_training_stop = True

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        if PartialState().is_main_process:
            print("stopping after this step; once more to stop at once", file=sys.stderr)

    def _any_asked(self) -> bool:
        state = PartialState()
        if state.num_processes == 1:
            return self._asked
        asked = torch.tensor([float(self._asked)], device=state.device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        return bool(asked.item())


def _asked(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"
