"""Rows for an ablation: inputs of a model with what it should predict, in batches of equal length, so that nothing is ever padded."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...choices import CLASSIFIER
from ...errors import some
from ...processors import modality
from ..inputs.encoding import IDS, PIXELS, EncodedInput, ImageProcessor, ModelInput, encode, length_limit

LABELS = "labels"
IGNORED = -100  # the label of a token that is not to be predicted, as in all of Transformers
MASKED_SHARE = 0.15  # of the tokens of a text, which a masked language model is to predict
LARGEST_LOGITS = 2**26  # numbers
CAUSAL = ("ForCausalLM", "LMHeadModel")
MASKED_LM = ("ForMaskedLM",)
WRITERS = ("ForConditionalGeneration",)  # of a text that begins with what they are given, or of another one


@dataclass(frozen=True)
class LabelledRow:
    """One input.

    Attributes:
        index: of the row, which seeds what is random.
        inputs: arguments of the model, each with a first dimension of 1.
        labels: a class `[1]`, or tokens `[1, length]`, -100 where there is nothing to predict.
    """

    index: int
    inputs: dict[str, Tensor]
    labels: Tensor

    @property
    def shape(self) -> tuple[object, ...]:
        """What rows of one batch have in common."""
        return tuple((name, *value.shape) for name, value in sorted(self.inputs.items()))


class RowEncoder:
    """Makes rows of what a user has.

    Args:
        model: whose class says what is predicted: a classifier of texts or images, a masked or a causal language model.
        processor: tokenizer or image processor; None for encoded inputs.
        seed: of the tokens that are masked.

    Raises:
        ValueError: another head.
    """

    def __init__(self, model: PreTrainedModel, processor: PreTrainedTokenizerBase | ImageProcessor | None, seed: int) -> None:
        self.model, self.seed = model, seed
        is_text = processor is None or isinstance(processor, PreTrainedTokenizerBase)
        self.tokenizer: PreTrainedTokenizerBase | None = processor if is_text else None  # type: ignore[assignment]
        self.image_processor: Any = None if is_text else processor
        self.kind = type(model).__name__
        writes_on = model.can_generate() and not getattr(model.config, "is_encoder_decoder", False)
        self.classifies = CLASSIFIER.search(self.kind) is not None
        self.is_causal = self.kind.endswith(CAUSAL) or (self.kind.endswith(WRITERS) and writes_on)
        self.reads_images = modality(model) == "image"
        if not (self.classifies or self.is_causal or self.kind.endswith(MASKED_LM)):
            raise ValueError(
                f"{self.kind} has no head whose quality can be measured here; load a classifier of texts or images, or a masked or causal "
                "language model"
            )
        problem = getattr(model.config, "problem_type", None)
        if self.classifies and ((model.config.num_labels or 0) < 2 or problem == "multi_label_classification"):
            raise ValueError(f"{self.kind} does not choose one of several classes, so it has no accuracy; load one that does")

    def row(self, index: int, given: ModelInput, label: int | str | None) -> LabelledRow:
        """One row.

        Raises:
            ValueError, TypeError: what is given is no input of this model, or it has no label; with the index of the row.
        """
        try:
            return self._row(index, given, label)
        except (TypeError, ValueError) as error:
            raise type(error)(f"row {index}: {error}") from error

    def _row(self, index: int, given: ModelInput, label: int | str | None) -> LabelledRow:
        self._check_modality(given)
        encoded = encode(
            self.model, given, tokenizer=self.tokenizer, processor=self.image_processor, max_length=length_limit(self.model, self.tokenizer)
        )
        inputs = dict(encoded.inputs)
        own = inputs.pop(LABELS, None)
        if own is not None:
            return LabelledRow(index, inputs, own)
        if self.classifies:
            return LabelledRow(index, inputs, self._class(label).to(self.model.device))
        if label is not None:
            raise ValueError(f"{self.kind} predicts the tokens of its own texts; leave labels away")
        if self.is_causal:
            return LabelledRow(index, inputs, inputs[IDS])
        return self._masked(index, encoded)

    def _check_modality(self, given: ModelInput) -> None:
        is_image = PIXELS in given if isinstance(given, Mapping) else not isinstance(given, str | tuple)
        if is_image != self.reads_images:
            there, wanted = ("an image", "texts") if is_image else ("a text", "images")
            raise ValueError(f"it is {there}, but {self.kind} reads {wanted}")

    def _class(self, label: int | str | None) -> Tensor:
        names = {name: number for number, name in (self.model.config.id2label or {}).items()}
        if label is None:
            raise ValueError(f"it has no label, which the accuracy of {self.kind} needs; give labels=, a class for each row")
        found = names.get(label) if isinstance(label, str) else label
        if found is None and isinstance(label, str) and label.strip().isdecimal():
            found = int(label)
        if isinstance(found, bool) or not isinstance(found, Integral) or not 0 <= found < len(names):
            raise ValueError(f"there is no class {label!r}; {self.kind} has {some(names)}, or their numbers")
        return torch.tensor([int(found)])

    def _masked(self, index: int, encoded: EncodedInput) -> LabelledRow:
        """A text of which some tokens are masked, the same ones in every run with this seed; at least one."""
        mask_token = None if self.tokenizer is None else self.tokenizer.mask_token_id
        if mask_token is None:
            raise ValueError("a masked language model needs the tokenizer with its mask token, or encoded inputs with labels")
        content = numpy.array(encoded.content_positions)
        count = max(1, round(MASKED_SHARE * len(content)))
        places = numpy.sort(numpy.random.default_rng([self.seed, index]).choice(content, count, replace=False))
        tokens = encoded.inputs[IDS].clone()
        labels = torch.full_like(tokens, IGNORED)
        labels[0, places] = tokens[0, places]
        tokens[0, places] = mask_token
        return LabelledRow(index, {**encoded.inputs, IDS: tokens}, labels)


def separated(rows: Sequence[ModelInput], labels: Sequence[int | str] | None) -> list[tuple[ModelInput, int | str | None]]:
    """Inputs with their labels, batches of several taken apart.

    Raises:
        ValueError: no rows, as many labels as there are not rows, or labels beside batches.
        TypeError: rows that are no list.
    """
    if isinstance(rows, str | Mapping) or not hasattr(rows, "__len__"):
        raise TypeError("rows must be a list of texts, images or encoded batches")
    if not len(rows):
        raise ValueError("rows is empty, so there is nothing to measure; give at least one")
    found: list[tuple[ModelInput, int | str | None]] = []
    for row in rows:
        found += [(each, None) for each in _of_batch(row)] if isinstance(row, Mapping) else [(row, None)]
    if labels is None:
        return found
    if len(labels) != len(found):
        raise ValueError(f"there are {len(labels)} labels for {len(found)} rows; give one for each")
    return [(row, label) for (row, _), label in zip(found, labels, strict=True)]


def _of_batch(batch: Mapping[str, object]) -> Iterator[dict[str, object]]:
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor) and value.dim()}
    sizes = {len(value) for value in tensors.values()}
    if len(sizes) != 1:
        raise ValueError(f"the tensors of an encoded batch must agree in their first dimension, but have {sorted(sizes) or 'none'}")
    for number in range(sizes.pop()):
        yield {name: value[number : number + 1] for name, value in tensors.items()}


def batches(rows: Sequence[LabelledRow], batch_size: int, vocabulary: int) -> Iterator[list[LabelledRow]]:
    """Rows of equal shape, in batches.

    Args:
        rows: in any order.
        batch_size: the most rows of a batch.
        vocabulary: logits per token, of which a batch has no more than fit in 256 MiB; 1 for a classifier.
    """
    groups: dict[tuple[object, ...], list[LabelledRow]] = defaultdict(list)
    for row in rows:
        groups[row.shape].append(row)
    for members in groups.values():
        size = max(1, min(batch_size, LARGEST_LOGITS // (vocabulary * members[0].labels.numel())))
        for start in range(0, len(members), size):
            yield members[start : start + size]
