"""Which number of a model's output is explained, and what it is called."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..inputs.word_alignment import readable


@dataclass(frozen=True)
class Target:
    """One logit.

    Attributes:
        index: class or vocabulary entry.
        position: the position it is read at, where the model has logits for each; None where it has one row for the whole input.
        name: what the config or the tokenizer calls it.
    """

    index: int
    position: int | None
    name: str

    def of(self, logits: Tensor) -> Tensor:
        """The target's logit of every input, `[batch]`, from `[batch, classes]` or `[batch, positions, classes]`."""
        return logits[:, self.index] if logits.dim() == 2 else logits[:, self.position, self.index]

    def probability(self, logits: Tensor, config: Any) -> Tensor:
        """The target's probability for every input, `[batch]`: softmax over classes, or sigmoid for one output or several labels."""
        row = logits if logits.dim() == 2 else logits[:, self.position]
        if row.shape[-1] == 1 or getattr(config, "problem_type", None) == "multi_label_classification":
            return torch.sigmoid(row[:, self.index])
        return torch.softmax(row.double(), dim=-1)[:, self.index].to(row.dtype)


def logits_of(output: Any, model: Any) -> Tensor:
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


def choose_target(model: Any, logits: Tensor, inputs: dict[str, Tensor], target: int | str | None, **options: Any) -> Target:
    """Find a target in the logits of one input.

    Args:
        model: whose config names classes.
        logits: `[1, classes]` or `[1, positions, classes]`.
        inputs: what the model was called with, to find a mask token.
        target: index or name; None is the class or token with the largest logit.
        **options: `position`, needed where every position has logits and it is not plain which is meant (the only mask token, or the
            last position of a causal model); and `tokenizer`, which names tokens.

    Raises:
        ValueError: no such class, token or position.
    """
    tokenizer = options["tokenizer"]
    position = _position(model, logits, inputs, options["position"], tokenizer)
    row = logits[0] if position is None else logits[0, position]
    labels = _labels(model, row.shape[-1])
    index = int(row.argmax()) if target is None else _index(target, row.shape[-1], labels, tokenizer)
    if labels:
        return Target(index, position, labels[index])
    return Target(index, position, readable(tokenizer, [index])[0] if position is not None else f"class {index}")


def _labels(model: Any, classes: int) -> dict[int, str]:
    """The names of classes; none for a vocabulary."""
    known = getattr(model.config, "id2label", None) or {}
    names = {int(index): str(name) for index, name in known.items()}
    return names if len(names) == classes and classes != getattr(model.config, "vocab_size", None) else {}


def _position(model: Any, logits: Tensor, inputs: dict[str, Tensor], wanted: int | None, tokenizer: Any) -> int | None:
    if logits.dim() == 2:
        if wanted is not None:
            raise ValueError(f"{type(model).__name__} has one row of logits for the whole input; leave position None")
        return None
    length = logits.shape[1]
    if wanted is not None:
        if not -length <= wanted < length:
            raise ValueError(f"there is no position {wanted}: the input has {length} positions, counted from 0")
        return wanted % length
    if "ForCausalLM" in type(model).__name__ or "LMHead" in type(model).__name__:
        return length - 1
    mask = getattr(tokenizer, "mask_token_id", None)
    if mask is not None and "input_ids" in inputs:
        found = (inputs["input_ids"][0] == mask).nonzero().flatten().tolist()
        if len(found) == 1:
            return found[0]
    raise ValueError(f"{type(model).__name__} has logits for each of {length} positions; give position= the one to explain")


def _index(target: int | str, count: int, labels: dict[int, str], tokenizer: Any) -> int:
    if isinstance(target, bool) or not isinstance(target, int | str):
        raise TypeError(f"target must be an index or a name, but is {type(target).__name__}")
    if isinstance(target, int):
        if not 0 <= target < count:
            raise ValueError(f"target {target} is out of range: the model has {count} targets, 0 to {count - 1}")
        return target
    if labels or tokenizer is None:
        found = [index for index, name in labels.items() if name == target]
        if not found:
            raise ValueError(f"the model has no class {target!r}; it has {', '.join(list(labels.values())[:9]) or 'only numbers'}")
        return found[0]
    pieces = tokenizer.encode(target, add_special_tokens=False)
    if len(pieces) != 1:
        raise ValueError(f"{target!r} is {len(pieces)} tokens, but a target is one; give one token, with its leading space if it has one")
    return pieces[0]
