"""The keys of a recipe: their types and ranges, and which go together. `recipes/base.yaml` says what each means and holds its default.

The base.yaml in a task's folder does the same for the keys that its configuration adds. Training keys have the names that
`transformers.TrainingArguments` gives them.
"""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from ...choices import can_be_repository
from ...conversion.calibration.plan import Plan
from ...errors import RecipeError
from ...package_data import data_folder

ROOT = data_folder("recipes")
BASE = ROOT / "base.yaml"
DATA_FILES = ("train_file", "validation_file", "test_file")
FILE_TYPES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}
TABLES = (".csv", ".json", ".jsonl", ".parquet")
# What makes one variant differ from another, and what says how a run is run and not what it computes.
ATTENTION = (
    *("attention", "polarity", "layers", "heads", "shift", "score_bias", "score_bias_learning_rate"),
    *("calibrate", "balance", "refit", "transfer_steps"),
    *("polarity_schedule", "polarity_start", "polarity_share"),
)
CALIBRATION = ("calibrate", "balance", "refit", "transfer_steps")
MANAGEMENT = (
    *("num_processes", "use_cpu", "output_dir", "results_dir", "resume", "compare_with"),
    *("report_to", "push_to_hub", "hub_private_repo"),
)
LATER = ("freeze_layers", "files_dataset", "label_names")  # of these a run knows only what was set


EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")  # 5e-5, which YAML takes for text as it has no point


def _as_written(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """A number that is checked but stays as it was written: 1 is not made 1.0, in results neither."""
    if isinstance(value, str) and EXPONENT.fullmatch(value):
        value = float(value)
    check(value)
    return value


AsWritten = WrapValidator(_as_written)
MOST = 2**31  # of whole numbers, which torch takes
LARGEST = 1e6  # of other numbers without a bound of their own
Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST)]
AtLeast2 = Annotated[int, Field(ge=2, le=MOST)]
Length = Annotated[int, Field(ge=3, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1), AsWritten]
ShareAbove0 = Annotated[float, Field(ge=0.001, le=1), AsWritten]
ShareAboveNothing = Annotated[float, Field(gt=0, le=1), AsWritten]
SmallShare = Annotated[float, Field(ge=0.001, le=0.9), AsWritten]
Dropout = Annotated[float, Field(ge=0, le=0.99), AsWritten]
LearningRate = Annotated[float, Field(gt=0, le=100), AsWritten]
Positive = Annotated[float, Field(gt=0, le=LARGEST), AsWritten]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST), AsWritten]
Indices = Annotated[tuple[int, ...], Strict(False)]  # not strict about lists, as YAML has no tuples
Names = Annotated[tuple[str, ...], Strict(False)]


def _header(path: Path) -> list[str] | None:
    """The names of a CSV file's columns as its reader has them; None where it is compressed or no CSV, of which the reader says more."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(line for line in file if line.strip()), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    named = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    return [f"{name}.{earlier}" if (earlier := named[:place].count(name)) else name for place, name in enumerate(named)]


class Config(BaseModel):
    """The keys of every recipe.

    Raises:
        ValidationError: an unknown key, a wrong type, a value out of its range.
        RecipeError: values that do not go together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    file_types: ClassVar[tuple[str, ...]] = TABLES
    folders: ClassVar[bool] = False  # whether a data file may be a folder
    synthetic: ClassVar[str] = "synthetic"  # the name of the embedded data set
    packaged: ClassVar[tuple[str, ...]] = ()  # names of data sets that are installed with this package

    task: str
    model_name_or_path: str | None
    num_layers: Count
    hidden_size: Count
    num_heads: Count
    dropout: Dropout | None
    attention: Literal["tanhmax", "softmax"]
    polarity: Share | Literal["learned"]
    layers: Indices | None
    heads: Indices | None
    shift: Literal["balanced"] | None
    score_bias: Annotated[float, Field(ge=-40, le=40), AsWritten]
    score_bias_learning_rate: LearningRate
    calibrate: Count | None
    balance: ShareAboveNothing
    refit: bool | None
    transfer_steps: CountOrZero
    polarity_schedule: Literal["linear", "cosine", "geometric"] | None
    polarity_start: Share
    polarity_share: ShareAbove0
    freeze_layers: CountOrZero
    lora_rank: Count | None
    lora_alpha: Positive
    lora_dropout: Dropout
    lora_targets: Names | None
    dataset: str
    dataset_config: str | None
    train_file: str | None
    validation_file: str | None
    test_file: str | None
    files_dataset: str | None
    validation_share: SmallShare
    max_train_rows: Count | None
    max_test_rows: Count | None
    num_train_epochs: Annotated[float, Field(ge=0.001, le=LARGEST), AsWritten] | None
    max_steps: Count | None
    batch_size: Count
    gradient_accumulation_steps: Count
    gradient_checkpointing: bool
    learning_rate: LearningRate | None
    warmup_steps: NotNegative
    lr_scheduler_type: Literal["linear", "cosine", "constant"]
    weight_decay: NotNegative
    max_grad_norm: NotNegative
    bf16: bool
    seed: Annotated[int, Field(ge=0, le=MOST)]
    num_processes: Count | None
    use_cpu: bool
    logging_steps: Count
    save_steps: Count
    health_steps: Count | None
    health_rows: Count
    report_to: Literal["tensorboard", "trackio"] | None
    output_dir: str | None
    results_dir: str | None
    resume: bool
    compare_with: str | None
    push_to_hub: str | None
    hub_private_repo: bool

    @model_validator(mode="after")
    def _check(self) -> "Config":
        self._check_together()
        for key in DATA_FILES:
            self._check_file(key)
        return self

    def _check_together(self) -> None:
        if self.save_steps % self.logging_steps:
            raise RecipeError(
                f"save_steps must be a multiple of logging_steps, so that a resumed run logs the same losses, but they are "
                f"{self.save_steps} and {self.logging_steps}"
            )
        if self.warmup_steps >= 1 and self.warmup_steps % 1:
            raise RecipeError(f"warmup_steps must be a share of the steps, below 1, or a whole number of steps, but is {self.warmup_steps}")
        if self.from_scratch and self.hidden_size % self.num_heads:
            raise RecipeError(f"num_heads must divide hidden_size, but they are {self.num_heads} and {self.hidden_size}")
        if self.polarity == "learned" and self.polarity_schedule:
            raise RecipeError("a learned polarity is not annealed: set polarity to a number, or polarity_schedule to null")
        if self.polarity == "learned" and self.lora_rank:
            raise RecipeError("a learned polarity is a weight of the base model, which LoRA does not train: set polarity to a number")
        if self.lora_rank and self.from_scratch:
            raise RecipeError("lora_rank adapts a checkpoint: set model_name_or_path, or lora_rank to null")
        if self.freeze_layers and (self.from_scratch or self.lora_rank):
            reason = "a model from scratch has no layers that are worth keeping" if self.from_scratch else "LoRA trains adapters alone"
            raise RecipeError(f"freeze_layers is {self.freeze_layers}, but {reason}: set it to 0")
        if self.calibrate and self.attention == "tanhmax":
            self._check_calibration()
        if self.push_to_hub and self.attention == "softmax":
            raise RecipeError("push_to_hub publishes TanhMax models, but attention is softmax: leave it out, or use the Hub's own tools")
        if self.files_dataset and not can_be_repository(self.files_dataset):
            raise RecipeError(
                f"files_dataset must be the name of a data set on the Hub, such as stanfordnlp/sst2, but is {self.files_dataset!r}"
            )
        if self.train_file and self.dataset != self.synthetic:
            raise RecipeError(f"give either train_file or dataset, not both: {self.train_file} and {self.dataset}")

    def _check_calibration(self) -> None:
        if self.from_scratch:
            raise RecipeError("calibrate is for a trained softmax checkpoint: set model_name_or_path, or calibrate to null")
        if self.family == "llama" and self.shift is None:
            raise RecipeError(
                "a LLaMA has no key biases to align: calibrate it with shift: balanced at a polarity of 0.2 or so, as aligned.yaml"
            )
        try:
            plan = self.conversion_plan.for_model(alignable=self.family != "llama")
        except ValueError as error:
            raise RecipeError(f"calibrate: {error}") from error
        if self.polarity_schedule is not None and (plan.refit is not False or plan.transfer_steps):
            raise RecipeError(
                "refit and transfer_steps fit projections to one polarity, which is not annealed: set polarity_schedule to null, or refit "
                "to false and transfer_steps to 0"
            )

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
        if path.suffix == ".csv":
            self._check_header(path, key.removesuffix("_file"))

    def _check_header(self, path: Path, split: str) -> None:
        """Refuse a file without a column that a key names, before anything that takes seconds is imported."""
        header = _header(path)
        for key in (name for name in type(self).model_fields if name.endswith("_column")):
            column = getattr(self, key)
            if header is not None and column is not None and column not in header:
                raise RecipeError(f"the {split} data has no column {column!r} ({key}); it has {', '.join(map(repr, header))[:300]}")

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
        return self.num_train_epochs or (6 if self.from_scratch else 1)

    @property
    def resolved_learning_rate(self) -> float:
        """Learning rate, where null means the default for this kind of start."""
        return self.learning_rate or (1e-3 if self.from_scratch else 5e-4 if self.lora_rank else 5e-5)

    @property
    def conversion_plan(self) -> Plan:
        """What is asked of the conversion of a softmax checkpoint; its polarity is that with which training ends."""
        given: dict[str, Any] = {"calibrate": self.calibrate is not None, "refit": self.refit, "transfer_steps": self.transfer_steps}
        return Plan(self.polarity, self.layers, self.heads, self.score_bias, self.shift, balance=self.balance, **given)

    def identity(self) -> dict[str, object]:
        """The keys that decide what a run computes, as JSON would give them back; of calibration, and of `LATER`, where they are set.

        So runs that were begun before there were such keys are still the same runs.
        """
        left_out = {*MANAGEMENT, *(() if self.calibrate else CALIBRATION), *(key for key in LATER if not getattr(self, key, None))}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self if key not in left_out}


class TextConfig(Config):
    """Text, and the tokenizer that is built where there is none."""

    vocabulary_size: Count
    max_length: Length


class SyntheticTextConfig(TextConfig):
    """Text that is by default of the paper's generator."""

    synthetic_documents: Count
    synthetic_vocabulary: AtLeast2
    synthetic_polar: AtLeast2
    text_column: str

    def _check_together(self) -> None:
        super()._check_together()
        if self.synthetic_polar % 2 or self.synthetic_polar >= self.synthetic_vocabulary:
            raise RecipeError(
                f"synthetic_polar must be even and below synthetic_vocabulary, but they are {self.synthetic_polar} and "
                f"{self.synthetic_vocabulary}"
            )


class TextClassificationConfig(SyntheticTextConfig):
    """Texts, or pairs of them, with a class."""

    packaged: ClassVar = ("film_reviews",)

    text_pair_column: str | None
    label_column: str
    label_names: Names | None


class CausalLMConfig(SyntheticTextConfig):
    """Texts for next-token prediction, packed into rows of one length."""

    file_types: ClassVar = (*TABLES, ".txt")

    sample_by: Literal["document", "paragraph", "line"]


class MaskedLMConfig(CausalLMConfig):
    """Texts of which some tokens are masked and predicted."""

    mask_probability: SmallShare


class SFTConfig(TextConfig):
    """Conversations, with a loss on the assistant's turns only."""

    messages_column: str
    chat_template: str | None


class ImageClassificationConfig(Config):
    """Images with a class."""

    file_types: ClassVar = (".parquet",)
    folders: ClassVar = True
    synthetic: ClassVar = "digits"

    patch_size: Count
    image_column: str
    label_column: str
    label_names: Names | None
    image_size: Count | None
    augmentation: bool
    crop_padding: Annotated[float, Field(ge=0, le=0.5), AsWritten]
    flip: bool


CONFIGS: dict[str, type[Config]] = {
    "bert/text_classification": TextClassificationConfig,
    "bert/masked_lm": MaskedLMConfig,
    "vit/image_classification": ImageClassificationConfig,
    "llama/causal_lm": CausalLMConfig,
    "llama/sft": SFTConfig,
}

# Keys that do something only beside another one. Given where they would do nothing, they are an error.
ONLY_WITH: list[tuple[tuple[str, ...], str, Callable[[Config], bool]]] = [
    (ATTENTION[1:], "attention: tanhmax", lambda config: config.attention == "tanhmax"),
    (CALIBRATION[1:], "calibrate", lambda config: config.calibrate is not None),
    (("balance",), "calibrate and no shift (with a balanced one, polarity says it)", lambda config: config.shift is None),
    (("score_bias", "score_bias_learning_rate"), "polarity: learned", lambda config: config.polarity == "learned"),
    (("polarity_start", "polarity_share"), "a polarity_schedule", lambda config: config.polarity_schedule is not None),
    (("lora_alpha", "lora_dropout", "lora_targets"), "a lora_rank", lambda config: config.lora_rank is not None),
    (
        ("num_layers", "hidden_size", "num_heads", "vocabulary_size", "patch_size"),
        "a model from scratch (no model_name_or_path)",
        lambda config: config.from_scratch,
    ),
    (
        ("synthetic_documents", "synthetic_vocabulary", "synthetic_polar"),
        "dataset: synthetic",
        lambda config: config.is_synthetic,
    ),
    (("dataset_config",), "a dataset from the Hub", lambda config: config.dataset not in (config.synthetic, *config.packaged)),
    (("files_dataset",), "a train_file", lambda config: config.train_file is not None),
    (("hub_private_repo",), "push_to_hub", lambda config: config.push_to_hub is not None),
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
