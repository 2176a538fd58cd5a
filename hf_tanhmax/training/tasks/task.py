"""The interface of a task: what `hf_tanhmax.training.run` asks of it, in the order in which it asks."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel

from ..data.rows import Splits


class Task(ABC):
    """One kind of recipe.

    Args:
        config: of the kind that the task has in `hf_tanhmax.training.configuration.schema`.
    """

    auto_class: ClassVar[Any]  # of Transformers, that loads a checkpoint with this task's head
    peft_task: ClassVar[str | None]  # PEFT's name of the task
    new_modules: ClassVar[list[str]] = []  # those that a checkpoint may lack, trained in full beside LoRA
    main_metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    reported: ClassVar[tuple[str, ...]]  # metrics of the tables, the main one among them
    column_names_kept: ClassVar[bool] = False  # whether batches need columns that the model does not name
    forward: ClassVar[dict[str, Any]] = {}  # options of every forward pass outside the Trainer, which sets them itself

    def __init__(self, config: Any) -> None:
        self.config = config

    def check(self) -> None:  # noqa: B027, most tasks have nothing to look at
        """Look at what can be seen before any data is read.

        Raises:
            RecipeError: what cannot work.
        """

    @abstractmethod
    def splits(self) -> Splits:
        """The rows, read and checked.

        Raises:
            RecipeError: rows that do not hold what the task needs.
        """

    @abstractmethod
    def processor(self, splits: Splits) -> Any:
        """The tokenizer or image processor: the checkpoint's, or one made for the rows.

        Raises:
            RecipeError: a checkpoint that has none that fits.
        """

    @abstractmethod
    def sizes(self, processor: Any, splits: Splits) -> dict[str, Any]:
        """The fields of the upstream config of a model from scratch."""

    def head(self, splits: Splits) -> dict[str, Any]:
        """The fields of the config that say what the head is, for a model from scratch or from a checkpoint."""
        return {}

    def check_checkpoint(self, name: str, found: Any) -> None:  # noqa: B027
        """Look at the config of the checkpoint to start from.

        Raises:
            RecipeError: rows that its positions or its image size cannot hold.
        """

    def adapt(self, model: PreTrainedModel) -> None:  # noqa: B027
        """Change a loaded model where the recipe asks for other inputs than it was made for, in place."""

    @abstractmethod
    def examples(self, rows: Dataset, processor: Any, *, training: bool) -> Dataset:
        """Rows as the collator takes them."""

    def lengths(self, rows: Dataset) -> list[int]:
        """How long each example is, by which batches are sorted so that little is padded."""
        return [len(ids) for ids in rows["input_ids"]] if "input_ids" in rows.column_names else [1] * len(rows)

    @abstractmethod
    def collator(self, processor: Any, *, training: bool) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """What makes a batch of examples."""

    @abstractmethod
    def loss(self) -> Callable[..., Tensor]:
        """The loss `(outputs, labels, num_items_in_batch)`, a sum divided by what is counted in the whole step, wherever it is."""

    def reduce(self, logits: Any, labels: Tensor) -> Tensor:
        """What is kept of the logits of an evaluation, `[rows, ...]`."""
        return first(logits)

    @abstractmethod
    def metrics(self, splits: Splits) -> Callable[[EvalPrediction], dict[str, float]]:
        """What the Trainer calls with what `reduce` kept of all rows, and their labels."""

    @abstractmethod
    def outcomes(self, prediction: Any) -> list[float]:
        """One number per row, the larger the better if `higher_is_better`: what a paired test compares."""


def first(logits: Any) -> Tensor:
    """The logits of a model that may return more beside them."""
    return logits[0] if isinstance(logits, tuple) else logits
