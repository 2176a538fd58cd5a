"""What a run prints while it trains: one header, then a line for each step at which something is logged, with names and numbers.

    step 40/216  loss 0.5312  learning rate 3.9e-05  polarity 0.37  | attention: negative mass 0.121, weight sum 0.904
    step 216/216  validation loss 0.3784  accuracy 0.8433

What is measured of attention stands on the line of the next loss or evaluation. Bars are drawn on a terminal alone.
"""

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import datasets
import transformers
from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments

from ..results import RunConfig, attention_in_words
from .configuration.recipe import Recipe
from .data.rows import Splits

HEALTH, EVALUATED, CONVERTED = "health/overall/", "eval_", "conversion/"
WITHOUT_INTEREST = ("cross_entropy", "epoch", "step", "total_flos")
TIMES = ("runtime", "per_second", "preparation_time")
SMALL = 1e-3  # below it a number is written with an exponent
# A warning of Transformers about an old name that PEFT asks for, on which no user has an influence.
OLD_NAME = "`is_gradient_checkpointing` is deprecated"


class ProgressLines(ProgressCallback):
    """The bar of Transformers on a terminal, with a line above it for each logged step; elsewhere the lines alone."""

    def __init__(self) -> None:
        super().__init__()
        self._bars, self._health = sys.stderr.isatty(), dict[str, float]()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Begin the bar."""
        if self._bars:
            super().on_train_begin(args, state, control, **kwargs)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Move the bar of an evaluation."""
        if self._bars:
            super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar; the last step is always logged, so that a run of fewer steps than are logged together shows its loss."""
        if self._bars:
            super().on_step_end(args, state, control, **kwargs)
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        """Write a line, or keep what is measured of attention for the next one; before the first step there is none to wait for."""
        logged = dict(logs or {})
        health = {name.removeprefix(HEALTH): value for name, value in logged.items() if name.startswith(HEALTH)}
        if health:
            self._health = health
        if not health or state.global_step == 0:
            self._write(state, logged)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write what is left, and complete the bar."""
        if self._health:
            self._write(state, {})
        if self._bars:
            super().on_train_end(args, state, control, **kwargs)

    def _write(self, state: TrainerState, logged: Mapping[str, float]) -> None:
        line = log_line(state.global_step, state.max_steps, logged, self._health)
        self._health = {}
        if not state.is_world_process_zero or line is None:
            return
        if self.training_bar is None:
            print(line, flush=True)
        else:
            self.training_bar.write(line)


def log_line(step: int, steps: int, logged: Mapping[str, float], health: Mapping[str, float]) -> str | None:
    """One line of the log; None where nothing in it is for a reader.

    Args:
        step: that was done.
        steps: of the run.
        logged: names and numbers, as the Trainer logs them.
        health: measures of attention over the whole model.
    """
    if "train_runtime" in logged:
        return f"trained {steps} steps in {logged['train_runtime']:.1f} s"
    parts: list[str] = []
    evaluated = any(name.startswith(EVALUATED) for name in logged)
    for name, value in logged.items():
        words = name.removeprefix(EVALUATED).removeprefix(CONVERTED)
        said_elsewhere = name.startswith(CONVERTED) and not name.endswith("_loss")
        if words in WITHOUT_INTEREST or words.endswith(TIMES) or words.startswith("health/") or said_elsewhere:
            continue
        parts.append(f"{'validation ' if evaluated and not parts else ''}{words.replace('_', ' ')} {number(value)}")
    if not parts and not health:
        return None
    measured = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in health.items())
    attention = [f"{'| ' if parts else ''}attention: {measured}"] if measured else []
    return "  ".join([f"step {step}/{steps}", *parts, *attention])


def number(value: object) -> str:
    """A number as a log shows it."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.1e}" if 0 < abs(value) < SMALL else f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}"


def header(recipe: Recipe, place: tuple[int, int], model: Any, splits: Splits, arguments: TrainingArguments) -> str:
    """What is trained, on what, for how long.

    Args:
        recipe: of the run.
        place: which run of how many.
        model: that is trained, also inside PEFT.
        splits: its rows.
        arguments: of its Trainer.
    """
    config = recipe.config
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    counted = [int(getattr(value, "ds_numel", value.numel())) for value in model.parameters()]
    trained = sum(count for count, value in zip(counted, model.parameters(), strict=True) if value.requires_grad)
    rows = ", ".join(f"{len(each):,} {name}" for name, each in splits.present().items())
    origin = f"from {config.model_name_or_path}" if config.model_name_or_path else "from scratch"
    which = f" ({place[0]} of {place[1]})" if place[1] > 1 else ""
    words = attention_in_words(RunConfig(**dict(config)))  # type: ignore[typeddict-item]
    lines = [
        f"{recipe.name}, variant {recipe.variant}{which}: {words}",
        f"  {type(inner).__name__} {origin}: {sum(counted):,} parameters, {'all' if trained == sum(counted) else f'{trained:,}'} trained",
        f"  rows: {rows}",
        f"  {arguments.max_steps:,} steps of {config.batch_size} rows, learning rate {config.resolved_learning_rate:g}, seed {config.seed}",
    ]
    return "\n".join(lines)


@contextmanager
def without_known_notices() -> Iterator[None]:
    """Leave out bars where there is no terminal, and a warning on which no user of a recipe has an influence."""
    bars = (transformers.logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled())
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
        datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=OLD_NAME, category=FutureWarning)
            yield
    finally:
        if bars[0]:
            transformers.logging.enable_progress_bar()
        if bars[1]:
            datasets.enable_progress_bars()


@contextmanager
def without_loading_report() -> Iterator[None]:
    """Leave out the table of Transformers about weights that a checkpoint lacks; whoever loads it says in one line what is new."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(max(verbosity, transformers.logging.ERROR))
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
