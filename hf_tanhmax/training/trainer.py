"""The Trainer of Transformers with what a recipe adds.

An order of rows that is a function of seed and epoch, one loss for any number of processes, and a learning rate of its own for learned
score biases.
"""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..errors import RecipeError, one_line
from .annealing import PolarityCallback
from .configuration.schema import Config
from .progress import ProgressLines
from .tasks.task import Collator

BATCHES_SORTED_TOGETHER = 50
SCORE_BIAS = "tanhmax_score_bias"
# The newer name of an argument that Transformers 5.17 does not have yet.
NAMES = ("activation_checkpointing", "gradient_checkpointing")
CHECKPOINTING = next(name for name in NAMES if name in TrainingArguments.__dataclass_fields__)


class LengthSampler(Sampler[int]):
    """Rows in random order, but in batches of similar length, so that little is padded.

    The order depends on nothing but the seed and the epoch, so a resumed run and any number of processes see the same batches.

    Args:
        lengths: tokens of each row.
        batch_size: rows of one step, over all processes.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = list(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        shuffled = torch.randperm(len(self.lengths), generator=generator).tolist()
        together = self.batch_size * BATCHES_SORTED_TOGETHER
        batches: list[list[int]] = []
        for first in range(0, len(shuffled), together):
            rows = sorted(shuffled[first : first + together], key=lambda row: -self.lengths[row])
            batches += [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        last = [batches.pop()] if len(batches[-1]) < self.batch_size else []
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[index]
        for batch in last:
            yield from batch


class EpochCallback(TrainerCallback):
    """Tells the sampler which epoch begins, also in the middle of one that is resumed."""

    def __init__(self, sampler: LengthSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Set the epoch."""
        self.sampler.set_epoch(int(state.epoch or 0))


class RecipeTrainer(Trainer):
    """A Trainer whose training does not depend on the number of processes.

    Args:
        score_bias_learning_rate: learning rate of the score biases of a learned polarity.
        sampler: order of the training rows.
        training_collator: what makes batches for training; `data_collator` makes those for evaluations.
        **kwargs: as for `Trainer`.
    """

    def __init__(
        self, *, score_bias_learning_rate: float, sampler: LengthSampler, training_collator: Collator | None, **kwargs: Any
    ) -> None:
        self.score_bias_learning_rate, self.sampler, self.training_collator = score_bias_learning_rate, sampler, training_collator
        super().__init__(**kwargs)
        self._share_out_embeddings_once()
        self.add_callback(EpochCallback(sampler))
        for shown in (ProgressCallback, PrinterCallback):
            self.pop_callback(shown)
        self.add_callback(ProgressLines())
        # The polarity is added to what is logged, so before anything that reports it.
        self.callback_handler.callbacks.sort(key=lambda callback: not isinstance(callback, PolarityCallback))

    def _share_out_embeddings_once(self) -> None:
        """Have FSDP wrap the layers and not what holds the input embeddings, which accelerate wraps itself: nothing twice.

        What the launch names to be wrapped stays.
        """
        plugin, model = getattr(self.accelerator.state, "fsdp_plugin", None), cast(PreTrainedModel, self.model)
        if plugin is not None and plugin.transformer_cls_names_to_wrap is None:
            embeddings = model.get_input_embeddings()
            holders = {type(module).__name__ for module in model.modules() if embeddings in set(module.modules())}
            plugin.transformer_cls_names_to_wrap = [name for name in model._no_split_modules or () if name not in holders]

    def get_train_dataloader(self) -> DataLoader:
        """Batches in the sampler's order; the last one is dropped if it is not full, so that all weigh the same."""
        loader: DataLoader = DataLoader(
            cast(Dataset, self.train_dataset),
            batch_size=self.args.per_device_train_batch_size,
            sampler=self.sampler,
            collate_fn=self.training_collator,
            drop_last=True,
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Upstream's optimizer, with the score biases in a group of their own, without weight decay."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer = super().create_optimizer(model)
        trained = cast(nn.Module, model or self.model)
        biases = [value for name, value in trained.named_parameters() if name.endswith(SCORE_BIAS)]
        if biases:
            moved = {id(bias) for bias in biases}
            for group in optimizer.param_groups:
                group["params"] = [value for value in group["params"] if id(value) not in moved]
            optimizer.add_param_group({"params": biases, "lr": self.score_bias_learning_rate, "weight_decay": 0.0})
        return optimizer


def training_arguments(
    config: Config, output_dir: Path, *, rows: int | None = None, processes: int = 1, all_columns: bool = False
) -> TrainingArguments:
    """The `TrainingArguments` of a recipe.

    Args:
        config: the recipe.
        output_dir: where checkpoints go.
        rows: of the training data; None where they are not known yet.
        processes: how many share a batch.
        all_columns: whether batches are made of more columns than the model's arguments.

    Raises:
        RecipeError: a batch that the processes cannot share evenly, or that is larger than the training data; or a tracker that is not
            installed.
    """
    if config.report_to is not None and importlib.util.find_spec(config.report_to) is None:
        raise RecipeError(f"report_to is {config.report_to}, which is not installed: pip install {config.report_to}")
    share = processes * config.gradient_accumulation_steps
    if config.batch_size % share:
        raise RecipeError(
            f"batch_size counts rows over all processes and accumulated steps, so {processes} x {config.gradient_accumulation_steps} must "
            f"divide it, but it is {config.batch_size}"
        )
    if rows is not None and rows < config.batch_size:
        raise RecipeError(f"batch_size is {config.batch_size}, but there are only {rows} rows to train on")
    epoch = (rows or config.batch_size) // config.batch_size
    steps = config.max_steps or max(1, round(epoch * config.resolved_epochs))
    arguments: dict[str, Any] = {
        "output_dir": str(output_dir),
        "max_steps": steps,
        "per_device_train_batch_size": config.batch_size // share,
        "per_device_eval_batch_size": 2 * (config.batch_size // share),
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "learning_rate": config.resolved_learning_rate,
        "lr_scheduler_type": config.lr_scheduler_type if config.lr_scheduler_type != "constant" else "constant_with_warmup",
        "warmup_steps": config.warmup_steps if config.warmup_steps >= 1 else round(steps * config.warmup_steps),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": config.bf16,
        "seed": config.seed,
        "use_cpu": config.use_cpu or not torch.accelerator.is_available(),
        "logging_steps": config.logging_steps,
        "disable_tqdm": not sys.stderr.isatty(),
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "save_total_limit": 2,
        "eval_strategy": "steps",
        "eval_steps": max(1, epoch),
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": torch.accelerator.is_available() and not config.use_cpu,
        "remove_unused_columns": not all_columns,
        **({CHECKPOINTING: True} if config.gradient_checkpointing else {}),
        "report_to": config.report_to or "none",
    }
    try:
        return TrainingArguments(**arguments)
    except ValueError as error:  # such as bf16 on a machine that lacks it
        raise RecipeError(one_line(error)) from error
