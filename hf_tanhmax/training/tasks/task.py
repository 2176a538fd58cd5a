"""The interface of a task, in the order in which `hf_tanhmax.training.run` uses it; and what classifiers share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from datasets import Dataset
from torch import Tensor
from transformers import BaseImageProcessor, EvalPrediction, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

from ..configuration.schema import Config
from ..data.rows import Splits
from .losses import class_loss
from .metrics import classification_metrics, right_answers

Processor = PreTrainedTokenizerBase | BaseImageProcessor
P = TypeVar("P", bound=Processor)
Example = dict[str, Any]  # a row of a data set
Collator = Callable[[list[Example]], Mapping[str, Tensor]]
Fields = dict[str, object]  # of a config of Transformers
Logits = Tensor | tuple[Tensor, ...]


class Task(ABC, Generic[P]):
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
    forward: ClassVar[dict[str, bool]] = {}  # options of every forward pass outside the Trainer, which sets them itself

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self) -> None:
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
    def processor(self, splits: Splits) -> P:
        """The tokenizer or image processor: the checkpoint's, or one made for the rows.

        Raises:
            RecipeError: a checkpoint that has none that fits.
        """

    @abstractmethod
    def sizes(self, processor: P, splits: Splits) -> Fields:
        """The fields of the upstream config of a model from scratch."""

    def head(self, splits: Splits) -> Fields:
        """The fields of the config that say what the head is, for a model from scratch or from a checkpoint."""
        return {}

    def check_checkpoint(self, name: str, found: PreTrainedConfig) -> None:
        """Look at the config of the checkpoint to start from.

        Raises:
            RecipeError: rows that its positions or its image size cannot hold.
        """

    def adapt(self, model: PreTrainedModel) -> None:
        """Change a loaded model where the recipe asks for other inputs than it was made for, in place."""

    @abstractmethod
    def examples(self, rows: Dataset, processor: P, *, training: bool) -> Dataset:
        """Rows as the collator takes them."""

    def lengths(self, rows: Dataset) -> list[int]:
        """How long each example is, by which batches are sorted so that little is padded."""
        return [len(ids) for ids in rows["input_ids"]] if "input_ids" in rows.column_names else [1] * len(rows)

    @abstractmethod
    def collator(self, processor: P, *, training: bool) -> Collator:
        """What makes a batch of examples."""

    @abstractmethod
    def loss(self) -> Callable[..., Tensor]:
        """The loss `(outputs, labels, num_items_in_batch)`, a sum divided by what is counted in the whole step, wherever it is."""

    def reduce(self, logits: Logits, labels: Tensor) -> Tensor:
        """What is kept of the logits of an evaluation, `[rows, ...]`."""
        return first(logits)

    @abstractmethod
    def metrics(self, splits: Splits) -> Callable[[EvalPrediction], dict[str, float]]:
        """What the Trainer calls with what `reduce` kept of all rows, and their labels."""

    @abstractmethod
    def outcomes(self, prediction: PredictionOutput) -> list[float]:
        """One number per row, the larger the better if `higher_is_better`: what a paired test compares."""


class Classification(Task[P]):
    """Rows with a class."""

    new_modules: ClassVar = ["classifier"]
    main_metric = "accuracy"
    reported = ("accuracy", "f1", "cross_entropy")

    def head(self, splits: Splits) -> Fields:
        """Its classes."""
        return {"id2label": dict(enumerate(splits.names)), "label2id": {name: number for number, name in enumerate(splits.names)}}

    def loss(self) -> Callable[..., Tensor]:
        """Cross entropy that counts the rows of the whole step."""
        return class_loss

    def metrics(self, splits: Splits) -> Callable[[EvalPrediction], dict[str, float]]:
        """Accuracy, F1 and cross entropy."""
        return classification_metrics(len(splits.names))

    def outcomes(self, prediction: PredictionOutput) -> list[float]:
        """1 for a right answer, 0 for a wrong one."""
        return right_answers(prediction)


def first(logits: Logits) -> Tensor:
    """The logits of a model that may return more beside them."""
    return logits[0] if isinstance(logits, tuple) else logits
