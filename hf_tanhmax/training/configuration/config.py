"""The keys that every recipe has: their types, their ranges, and which go together. `recipes/base.yaml` holds their defaults."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from ...errors import RecipeError
from ...package_data import data_folder

ROOT = data_folder("recipes")
BASE = ROOT / "base.yaml"
DATA_FILES = ("train_file", "validation_file", "test_file")
FILE_TYPES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}
TABLES = (".csv", ".json", ".jsonl", ".parquet")
# What makes one variant differ from another, and what says how a run is run and not what it computes.
ATTENTION = (
    "attention",
    "polarity",
    "layers",
    "heads",
    "score_bias",
    "score_bias_learning_rate",
    "polarity_schedule",
    "polarity_start",
    "polarity_share",
)
MANAGEMENT = (
    *("num_processes", "use_cpu", "output_dir", "results_dir", "resume", "compare_with"),
    *("report_to", "push_to_hub", "hub_private"),
)


@dataclass(frozen=True)
class Config:
    """The keys of every recipe; `base.yaml` says what each means and holds its default.

    Raises:
        RecipeError: values that are out of range or do not go together.
    """

    file_types: ClassVar[tuple[str, ...]] = TABLES
    folders: ClassVar[bool] = False  # whether a data file may be a folder
    synthetic: ClassVar[str] = "synthetic"  # the name of the embedded data set
    own_ranges: ClassVar[dict[str, tuple[float, float]]] = {}

    task: str
    model_name_or_path: str | None
    num_layers: int
    hidden_size: int
    num_heads: int
    dropout: float | None
    attention: Literal["tanhmax", "softmax"]
    polarity: float | Literal["learned"]
    layers: tuple[int, ...] | None
    heads: tuple[int, ...] | None
    score_bias: float
    score_bias_learning_rate: float
    polarity_schedule: Literal["linear", "cosine", "geometric"] | None
    polarity_start: float
    polarity_share: float
    lora_rank: int | None
    lora_alpha: float
    lora_dropout: float
    lora_targets: tuple[str, ...] | None
    dataset: str
    dataset_config: str | None
    train_file: str | None
    validation_file: str | None
    test_file: str | None
    validation_share: float
    max_train_rows: int | None
    max_test_rows: int | None
    epochs: float | None
    max_steps: int | None
    batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    learning_rate: float | None
    warmup_share: float
    learning_rate_schedule: Literal["linear", "cosine", "constant"]
    weight_decay: float
    max_gradient_norm: float
    bf16: bool
    seed: int
    num_processes: int | None
    use_cpu: bool
    logging_steps: int
    save_steps: int
    health_steps: int | None
    health_rows: int
    report_to: Literal["tensorboard", "trackio"] | None
    output_dir: str | None
    results_dir: str | None
    resume: bool
    compare_with: str | None
    push_to_hub: str | None
    hub_private: bool

    def __post_init__(self) -> None:
        for key, (low, high) in {**RANGES, **self.own_ranges}.items():
            value = getattr(self, key)
            if value is not None and not isinstance(value, str) and not (math.isfinite(value) and low <= value <= high):
                raise RecipeError(f"{key} must be {_between(low, high)}, but is {value}")
        self._check_together()
        for key in DATA_FILES:
            self._check_file(key)

    def _check_together(self) -> None:
        if self.save_steps % self.logging_steps:
            raise RecipeError(
                f"save_steps must be a multiple of logging_steps, so that a resumed run logs the same losses, but they are "
                f"{self.save_steps} and {self.logging_steps}"
            )
        if self.from_scratch and self.hidden_size % self.num_heads:
            raise RecipeError(f"num_heads must divide hidden_size, but they are {self.num_heads} and {self.hidden_size}")
        if self.polarity == "learned" and self.polarity_schedule:
            raise RecipeError("a learned polarity is not annealed: set polarity to a number, or polarity_schedule to null")
        if self.polarity == "learned" and self.lora_rank:
            raise RecipeError("a learned polarity is a weight of the base model, which LoRA does not train: set polarity to a number")
        if self.lora_rank and self.from_scratch:
            raise RecipeError("lora_rank adapts a checkpoint: set model_name_or_path, or lora_rank to null")
        if self.push_to_hub and self.attention == "softmax":
            raise RecipeError("push_to_hub publishes TanhMax models, but attention is softmax: leave it out, or use the Hub's own tools")
        if self.train_file and self.dataset != self.synthetic:
            raise RecipeError(f"give either train_file or dataset, not both: {self.train_file} and {self.dataset}")

    def _check_file(self, key: str) -> None:
        name = getattr(self, key)
        if name is None:
            return
        path = Path(name)
        if not self.train_file:
            raise RecipeError(f"{key} needs a train_file beside it")
        if path.is_dir() and self.folders:
            return
        if path.suffix not in self.file_types:
            wanted = ", ".join(self.file_types) + (", or be a folder with one sub-folder per class" if self.folders else "")
            raise RecipeError(f"{key} must end in {wanted}, but is {name}")
        if not path.is_file():
            raise RecipeError(f"{key} does not exist: {name}")
        if path.stat().st_size == 0:
            raise RecipeError(f"{key} is empty: {name}")

    @property
    def family(self) -> str:
        """`bert`, `vit` or `llama`."""
        return self.task.split("/")[0]

    @property
    def from_scratch(self) -> bool:
        """Whether the model starts from random weights."""
        return self.model_name_or_path is None

    @property
    def is_synthetic(self) -> bool:
        """Whether the rows are the embedded ones."""
        return self.dataset == self.synthetic and not self.train_file

    @property
    def resolved_epochs(self) -> float:
        """Epochs, where null means the default for this kind of start."""
        return self.epochs or (6 if self.from_scratch else 1)

    @property
    def resolved_learning_rate(self) -> float:
        """Learning rate, where null means the default for this kind of start."""
        return self.learning_rate or (1e-3 if self.from_scratch else 5e-4 if self.lora_rank else 5e-5)

    def identity(self) -> dict[str, Any]:
        """The keys that decide what a run computes, as JSON would give them back."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in MANAGEMENT}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


SMALLEST = 1e-12
COUNT = (1, 2**31)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("num_layers", "hidden_size", "num_heads", "lora_rank", "max_train_rows", "max_test_rows"), COUNT),
    **dict.fromkeys(("batch_size", "gradient_accumulation_steps", "max_steps", "num_processes"), COUNT),
    **dict.fromkeys(("logging_steps", "save_steps", "health_steps", "health_rows"), COUNT),
    "seed": (0, 2**31),
    **dict.fromkeys(["dropout", "warmup_share", "lora_dropout"], (0, 0.99)),
    **dict.fromkeys(["polarity", "polarity_start"], (0, 1)),
    "polarity_share": (0.001, 1),
    "validation_share": (0.001, 0.9),
    **dict.fromkeys(["weight_decay", "max_gradient_norm"], (0, 1e6)),
    **dict.fromkeys(["learning_rate", "score_bias_learning_rate"], (SMALLEST, 100)),
    "lora_alpha": (SMALLEST, 1e6),
    "epochs": (0.001, 1e6),
    "score_bias": (-40, 40),
}

# Keys that do something only beside another one. Given where they would do nothing, they are an error.
ONLY_WITH: list[tuple[list[str], str, Any]] = [
    ([key for key in ATTENTION if key != "attention"], "attention: tanhmax", lambda config: config.attention == "tanhmax"),
    (["score_bias", "score_bias_learning_rate"], "polarity: learned", lambda config: config.polarity == "learned"),
    (["polarity_start", "polarity_share"], "a polarity_schedule", lambda config: config.polarity_schedule is not None),
    (["lora_alpha", "lora_dropout", "lora_targets"], "a lora_rank", lambda config: config.lora_rank is not None),
    (
        ["num_layers", "hidden_size", "num_heads", "vocabulary_size", "patch_size"],
        "a model from scratch (no model_name_or_path)",
        lambda config: config.from_scratch,
    ),
    (
        ["synthetic_documents", "synthetic_vocabulary", "synthetic_polar"],
        "dataset: synthetic",
        lambda config: config.is_synthetic,
    ),
    (["dataset_config"], "a dataset from the Hub", lambda config: config.dataset != config.synthetic),
    (["hub_private"], "push_to_hub", lambda config: config.push_to_hub is not None),
]


def check_given(config: Config, given: set[str]) -> None:
    """Refuse keys that were given but would do nothing.

    Raises:
        RecipeError: naming the first such key and what it needs.
    """
    for keys, needed, holds in ONLY_WITH:
        idle = [key for key in keys if key in given and getattr(config, key, None) is not None]
        if idle and not holds(config):
            raise RecipeError(f"{idle[0]} does something only with {needed}")


def _between(low: float, high: float) -> str:
    if low == SMALLEST:
        return f"positive and at most {high:g}"
    return f"at least {low:g}" if high >= 1e6 else f"between {low:g} and {high:g}"
