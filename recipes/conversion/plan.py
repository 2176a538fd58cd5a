"""What is measured, as `plan.yaml` says it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_tanhmax.functional import Shift

PLAN = Path(__file__).with_name("plan.yaml")
RESULTS = Path(__file__).parents[1] / "results" / "conversion"


@dataclass(frozen=True)
class ClassifierTask:
    """Rows to classify, a softmax checkpoint to start from, and how it is fine-tuned.

    Attributes:
        name: of the task and of its file of results.
        title: of its column in the table.
        model: name of the checkpoint, whose folder the command line gives.
        train: a .csv file of `text` and `label`, or a .parquet file of `image` and `label`, in the folder of the data.
        validation: the same; None takes the last tenth of the training rows, shuffled once and for all.
        test: the same; it is read once for each model.
        batch_size: rows of a step.
        passes: over the training rows.
        learning_rate: at its highest, after the warm-up.
        dropout: of hidden states and attention weights.
        seeds: how many; they decide the head's first weights, the order of rows, dropout, and the rows for calibration.
        max_length: tokens of a text.
        image_size: pixels of an image's side.
        max_train_rows: how many training rows are kept, those for validation among them, the same for all seeds; None is all.
        max_test_rows: the same for the test.
    """

    name: str
    title: str
    model: str
    train: str
    validation: str | None
    test: str
    batch_size: int
    passes: int
    learning_rate: float
    dropout: float
    seeds: int
    max_length: int = 64
    image_size: int | None = None
    max_train_rows: int | None = None
    max_test_rows: int | None = None


@dataclass(frozen=True)
class Way:
    """A way from the softmax checkpoint to a classifier.

    Attributes:
        name: of the way.
        title: in the table.
        polarity: at the end of training.
        polarity_schedule: how it gets there from 0 in the first half of the steps; None is at once.
        shift: as in `TanhMaxSettings`.
        calibrate: whether key and value biases are aligned first.
        transfer_steps: of attention transfer after that.
        refit: whether output projections are refitted.
    """

    name: str
    title: str
    polarity: float = 1.0
    polarity_schedule: str | None = None
    shift: Shift = None
    calibrate: bool = False
    transfer_steps: int = 0
    refit: bool = False

    @property
    def softmax(self) -> bool:
        """Whether it is no TanhMax at all, but what the others are measured against."""
        return self.name == "softmax"


@dataclass(frozen=True)
class Plan:
    """Tasks and ways by their names, and what all of them share."""

    tasks: dict[str, ClassifierTask]
    ways: dict[str, Way]
    calibration_rows: int
    transfer_batch: int
    refit_rows: int
    refit_ridge: float
    balance: float
    weight_decay: float
    warmup: float
    max_grad_norm: float
    bfloat16: bool


def read_plan(path: Path = PLAN) -> Plan:
    """The plan in a file.

    Raises:
        TypeError: a key that does not exist, or one that is missing.
    """
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    tasks = {name: ClassifierTask(name=name, **values) for name, values in found.pop("tasks").items()}
    ways = {name: Way(name=name, **values) for name, values in found.pop("ways").items()}
    return Plan(tasks, ways, **found)
