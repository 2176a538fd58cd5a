"""The target of an explanation: which logit of the model's output, and its name."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..inputs.encoding import IDS
from ..inputs.word_alignment import token_texts


@dataclass(frozen=True)
class Target:
    """One logit.

    Attributes:
        index: class or vocabulary entry.
        position: the position it is read at, where the model has logits per position; None where it has one row for the whole input.
        name: its name in the config or the tokenizer.
    """

    index: int
    position: int | None
    name: str

    def of(self, logits: Tensor) -> Tensor:
        """The target's logit of every input, `[batch]`, from `[batch, classes]` or `[batch, positions, classes]`."""
        return logits[:, self.index] if logits.dim() == 2 else logits[:, self.position, self.index]

    def probability(self, logits: Tensor, config: object) -> Tensor:
        """The target's probability for every input, `[batch]`: softmax over classes, or sigmoid for one output or several labels."""
        row = logits if logits.dim() == 2 else logits[:, self.position]
        if row.shape[-1] == 1 or getattr(config, "problem_type", None) == "multi_label_classification":
            return torch.sigmoid(row[:, self.index])
        return torch.softmax(row.double(), dim=-1)[:, self.index].to(row.dtype)


def logits_of(output: object, model: PreTrainedModel) -> Tensor:
    """The logits of a model's output.

    Raises:
        ValueError: it has none, so there is no target to explain.
    """
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() not in (2, 3):
        raise ValueError(
            f"{type(model).__name__} returns no logits of classes or tokens to explain; load a classification, masked or causal language "
            "model class"
        )
    return logits


def choose_target(
    model: PreTrainedModel,
    logits: Tensor,
    inputs: Mapping[str, Tensor],
    target: int | str | None,
    *,
    position: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Target:
    """Find a target in the logits of one input.

    Args:
        model: whose config names the classes.
        logits: `[1, classes]` or `[1, positions, classes]`.
        inputs: what the model was called with, to find a mask token.
        target: index or name; None is the class or token with the largest logit.
        position: where the model has logits per position; None is the only mask token, or the last position of a causal model.
        tokenizer: names tokens.

    Raises:
        ValueError: no such class, token or position.
        TypeError: a target that is neither an index nor a name.
    """
    position = _resolve_position(model, logits, inputs, position, tokenizer)
    row = logits[0] if position is None else logits[0, position]
    labels = _class_labels(model, row.shape[-1])
    index = int(row.argmax()) if target is None else _resolve_index(target, row.shape[-1], labels, tokenizer)
    if labels:
        return Target(index, position, labels[index])
    return Target(index, position, token_texts(tokenizer, [index])[0] if position is not None else f"class {index}")


def _class_labels(model: PreTrainedModel, classes: int) -> dict[int, str]:
    """The names of classes; none for a vocabulary."""
    labels = {int(index): str(name) for index, name in (getattr(model.config, "id2label", None) or {}).items()}
    return labels if len(labels) == classes and classes != getattr(model.config, "vocab_size", None) else {}


def _resolve_position(
    model: PreTrainedModel,
    logits: Tensor,
    inputs: Mapping[str, Tensor],
    position: int | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> int | None:
    if logits.dim() == 2:
        if position is not None:
            raise ValueError(f"{type(model).__name__} has one row of logits for the whole input; leave position None")
        return None
    length = logits.shape[1]
    if position is not None:
        if not -length <= position < length:
            raise ValueError(f"there is no position {position}: the input has {length} positions, counted from 0")
        return position % length
    if model.can_generate():
        return length - 1
    mask_token = getattr(tokenizer, "mask_token_id", None)
    if mask_token is not None and IDS in inputs:
        masked = (inputs[IDS][0] == mask_token).nonzero().flatten().tolist()
        if len(masked) == 1:
            return masked[0]
    raise ValueError(f"{type(model).__name__} has logits for each of {length} positions; give position= the one to explain")


def _resolve_index(target: int | str, count: int, labels: dict[int, str], tokenizer: PreTrainedTokenizerBase | None) -> int:
    if isinstance(target, bool) or not isinstance(target, int | str):
        raise TypeError(f"target must be an index or a name, but is {type(target).__name__}")
    if isinstance(target, int):
        if not 0 <= target < count:
            raise ValueError(f"target {target} is out of range: the model has {count} targets, 0 to {count - 1}")
        return target
    if labels or tokenizer is None:
        index = next((index for index, label in labels.items() if label == target), None)
        if index is None:
            raise ValueError(f"the model has no class {target!r}; it has {', '.join(list(labels.values())[:9]) or 'only numbers'}")
        return index
    identifiers = tokenizer.encode(target, add_special_tokens=False)
    if len(identifiers) != 1:
        raise ValueError(
            f"{target!r} is {len(identifiers)} tokens, but a target is one; give one token, with its leading space if it has one"
        )
    return identifiers[0]
