"""Polarity that changes during training, from softmax towards TanhMax.

With t = min(1, step / (share * total)), from `start` at t = 0 to exactly `end` at t = 1 and after it:

* linear: start + (end - start) t
* cosine: start + (end - start) (1 - cos(pi t)) / 2, slow at both ends
* geometric: a (b / a)^t with a = max(start, 1e-4) and b = max(end, 1e-4), equal factors in equal times; at t = 0 it is exactly `start`

The polarity is a function of the step alone, so a resumed run continues where it was without any state of its own. It is no weight either:
a checkpoint holds it in config.json, and whatever loads weights back into a live model leaves the polarity as it is.
"""

import logging
import math
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoint import CONFIG, read_json
from ..functional import check_polarity
from ..integration.patching import ConfigView, set_polarity

logger = logging.getLogger(__name__)

Schedule = Literal["linear", "cosine", "geometric"]
GEOMETRIC_FLOOR = 1e-4


def polarity_at(step: int, total: int, *, start: float = 0.0, end: float = 1.0, schedule: Schedule = "linear", share: float = 0.5) -> float:
    """The polarity with which to take a step.

    Args:
        step: steps taken so far, from 0.
        total: steps of the whole training.
        start: polarity of the first step.
        end: polarity from `share` of the steps on, exactly.
        schedule: the form of the way from `start` to `end`.
        share: part of the steps that the way takes, in (0, 1].

    Raises:
        ValueError: a value outside its range, or a schedule that does not exist.
        TypeError: a polarity that is not a number.
    """
    if step < 0 or total < 1:
        raise ValueError(f"a polarity needs a step of at least 0 and a total of at least 1, but got step {step} of {total}")
    _check(start, end, schedule, share)
    arrived = share * total
    if step >= arrived:
        return float(end)
    progress = step / arrived
    if progress == 0:
        return float(start)
    if schedule == "geometric":
        low, high = max(start, GEOMETRIC_FLOOR), max(end, GEOMETRIC_FLOOR)
        return low * (high / low) ** progress
    if schedule == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return start + (end - start) * progress


class PolarityCallback(TrainerCallback):
    """Anneals the polarity of a model under the Trainer of Transformers, and logs it as `polarity`.

    Evaluations and checkpoints after step n see the polarity of step n, so a training that takes all its steps leaves exactly `end`. One
    that stops earlier leaves the polarity of its last step, and `load_best_model_at_end` that of the checkpoint that it loads; both are
    logged as a warning. A callback that reports what is logged, or saves the model when training ends, must come after this one; those that
    `report_to` names come before. So pass both: `report_to="none", callbacks=[PolarityCallback(), TrackioCallback()]`.

    Args:
        start: as in `polarity_at`, like the others.
        end: polarity at the end.
        schedule: `"linear"`, `"cosine"` or `"geometric"`.
        share: part of the steps that the way takes.

    Raises:
        ValueError, TypeError: as `polarity_at`; and when training begins, as `hf_tanhmax.set_polarity`, if the model computes no TanhMax
            or its polarity is learned.
    """

    def __init__(self, *, start: float = 0.0, end: float = 1.0, schedule: Schedule = "linear", share: float = 0.5) -> None:
        _check(start, end, schedule, share)
        self.start, self.end, self.schedule, self.share = float(start), float(end), schedule, float(share)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the first polarity, which refuses a model that has none to set."""
        self._set(kwargs["model"], state)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the polarity of the coming step."""
        self._set(kwargs["model"], state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the polarity that an evaluation or a checkpoint after this step shows."""
        self._set(kwargs["model"], state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the polarity of the checkpoint that was loaded back; say what is not as one may expect, and what an adapter does not hold."""
        model, loaded = kwargs["model"], self._of_loaded_checkpoint(args, state)
        if loaded is not None:
            set_polarity(model, loaded)
        polarity = _polarity_of(model)
        if polarity != self.end:
            taken = f"steps taken are {state.global_step} of {state.max_steps}"
            reason = taken if loaded is None else f"{state.best_model_checkpoint} was loaded back, as the best checkpoint"
            logger.warning("the polarity is %g now, and not %g, with which the schedule ends: %s", polarity, self.end, reason)
        if hasattr(model, "peft_config") and polarity not in _polarities_of_bases(model):
            logger.warning(
                "the polarity is %g now, in the config of the base model, which PEFT does not save with an adapter; save that too, with "
                "model.config.save_pretrained(the folder of the base model), or the adapter will be loaded onto the polarity of before",
                polarity,
            )

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the `polarity` of the model to what the Trainer logs."""
        polarity = _polarity_of(kwargs["model"])
        if isinstance(polarity, str):  # learned, or not there: training will refuse it
            return
        for record in (kwargs.get("logs"), state.log_history[-1] if state.log_history else None):
            if record is not None:
                record["polarity"] = polarity

    def _set(self, model: nn.Module, state: TrainerState) -> None:
        set_polarity(model, self._at(state))

    def _of_loaded_checkpoint(self, args: TrainingArguments, state: TrainerState) -> float | None:
        """What a checkpoint that the Trainer has loaded back says; where no config does, as in an adapter's, the polarity of its step."""
        checkpoint = Path(state.best_model_checkpoint or "")
        if not args.load_best_model_at_end or state.best_model_checkpoint is None or not checkpoint.is_dir():
            return None
        said = _polarity_in(checkpoint)
        return self._at(TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))) if said is None else float(said)

    def _at(self, state: TrainerState) -> float:
        return polarity_at(state.global_step, state.max_steps, start=self.start, end=self.end, schedule=self.schedule, share=self.share)


def _polarity_of(model: nn.Module) -> float | str:
    """What the attention of a model answers; "none" where it computes softmax."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return next((config.tanhmax_polarity for config in configs if isinstance(config, ConfigView)), "none")


def _polarities_of_bases(model: Any) -> set[float | str | None]:
    """What the folders of the base models that a model's adapters name say about polarity."""
    names = {adapter.base_model_name_or_path for adapter in model.peft_config.values()}
    return {_polarity_in(Path(name)) for name in names if name}


def _polarity_in(folder: Path) -> float | str | None:
    """What the config in a folder says about polarity, if there is one and it does."""
    return read_json(folder / CONFIG).get("tanhmax_polarity") if (folder / CONFIG).is_file() else None


def _check(start: float, end: float, schedule: str, share: float) -> None:
    for name, value in (("start", start), ("end", end)):
        if not isinstance(check_polarity(value), float):
            raise TypeError(f"{name} must be a number, but is {value!r}")
    if schedule not in get_args(Schedule):
        raise ValueError(f"unknown schedule {schedule!r}; there are {', '.join(get_args(Schedule))}")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], but is {share!r}")
