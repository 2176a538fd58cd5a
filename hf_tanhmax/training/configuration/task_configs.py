"""The keys that each task adds to `Config`; the `base.yaml` in the task's folder says what each means and holds its default."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ...errors import RecipeError
from .config import COUNT, Config

LENGTH = (3, 2**31)
SYNTHETIC = {"synthetic_documents": COUNT, "synthetic_vocabulary": (2, 2**31), "synthetic_polar": (2, 2**31)}


@dataclass(frozen=True)
class _SyntheticText(Config):
    """Text, by default of the paper's generator, and the tokenizer that is built where there is none."""

    own_ranges: ClassVar = {**SYNTHETIC, "max_length": LENGTH, "vocabulary_size": COUNT}

    vocabulary_size: int
    synthetic_documents: int
    synthetic_vocabulary: int
    synthetic_polar: int
    max_length: int

    def _check_together(self) -> None:
        super()._check_together()
        if self.synthetic_polar % 2 or self.synthetic_polar >= self.synthetic_vocabulary:
            raise RecipeError(
                f"synthetic_polar must be even and below synthetic_vocabulary, but they are {self.synthetic_polar} and "
                f"{self.synthetic_vocabulary}"
            )


@dataclass(frozen=True)
class TextClassificationConfig(_SyntheticText):
    """Texts, or pairs of them, with a class."""

    text_column: str
    text_pair_column: str | None
    label_column: str


@dataclass(frozen=True)
class MaskedLMConfig(_SyntheticText):
    """Texts whose tokens are hidden and guessed."""

    file_types: ClassVar = (*Config.file_types, ".txt")
    own_ranges: ClassVar = {**_SyntheticText.own_ranges, "mask_probability": (0.001, 0.9)}

    text_column: str
    sample_by: Literal["document", "paragraph", "line"]
    mask_probability: float


@dataclass(frozen=True)
class CausalLMConfig(_SyntheticText):
    """Texts that are continued, packed into rows of one length."""

    file_types: ClassVar = (*Config.file_types, ".txt")

    text_column: str
    sample_by: Literal["document", "paragraph", "line"]


@dataclass(frozen=True)
class SFTConfig(Config):
    """Conversations, of which the assistant's turns are learned."""

    own_ranges: ClassVar = {"max_length": LENGTH, "vocabulary_size": COUNT}

    vocabulary_size: int
    max_length: int
    messages_column: str
    chat_template: str | None


@dataclass(frozen=True)
class ImageClassificationConfig(Config):
    """Images with a class."""

    file_types: ClassVar = (".parquet",)
    folders: ClassVar = True
    synthetic: ClassVar = "digits"
    own_ranges: ClassVar = {"image_size": COUNT, "patch_size": COUNT, "crop_padding": (0, 0.5)}

    patch_size: int
    image_column: str
    label_column: str
    image_size: int | None
    augmentation: bool
    crop_padding: float
    flip: bool


CONFIGS: dict[str, type[Config]] = {
    "bert/text_classification": TextClassificationConfig,
    "bert/masked_lm": MaskedLMConfig,
    "vit/image_classification": ImageClassificationConfig,
    "llama/causal_lm": CausalLMConfig,
    "llama/sft": SFTConfig,
}
