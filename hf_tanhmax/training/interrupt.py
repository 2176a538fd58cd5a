"""Ctrl-C, or SIGTERM from a launcher: the step that runs is finished, a checkpoint is saved, the run ends. A second one ends it at once."""

import signal
import sys
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
        """Listen."""
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and stop, if any process was asked to."""
        if self._any_asked():
            self.stopped = state.global_step
            control.should_save = control.should_training_stop = True

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Listen no more."""
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
