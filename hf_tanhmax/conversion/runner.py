"""Run a model on batches of inputs while its attention modules do something else, and compare what it computes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import one_line
from ..integration.hooks import AttentionCall, AttentionFunction, replace_attention
from ..integration.registration import heads_of
from .regression import TINY
from .statistics import real_rows

Batch = Mapping[str, object]
# What a model says of inputs that are not for it.
OF_INPUTS = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)


class Runner:
    """Runs a model on batches.

    Attributes:
        model: in evaluation mode.
        modules: those of its attention modules that are looked at.
        real: `[batch, length]`, which rows of the last batch are no padding.
    """

    def __init__(self, model: nn.Module, modules: list[nn.Module]) -> None:
        self.model, self.modules = model, modules
        self.real = torch.ones(0, 0, dtype=torch.bool)

    def hidden(self, batch: Batch, functions: list[AttentionFunction], *, polarity: float | None = None) -> Tensor:
        """The last hidden states of the real rows, `[rows, hidden]`; of a model of several parts those of all, filled up with zeros.

        Args:
            batch: the model's inputs.
            functions: what each of `modules` calls for its attention.
            polarity: what they compute at; None is each module's own, with its own shift, and 0 is softmax.

        Raises:
            ValueError: the model refuses the inputs, or returns no hidden states.
        """
        states: list[Tensor] = []
        body: Any = getattr(self.model, "base_model", self.model)
        handle = body.register_forward_hook(lambda _, __, output: states.extend(_last_states(output)))
        try:
            with replace_attention(self.modules, [self.noting(function) for function in functions], polarity=polarity):
                run_model(self.model, batch)
        finally:
            handle.remove()
        if not states:
            raise ValueError(f"{type(self.model).__name__} returns no last hidden states to compare; align the part of it that does")
        rows = [state[self.real] if self.real.shape == state.shape[:2] else state.flatten(0, 1) for state in states]
        width = max(each.shape[-1] for each in rows)
        return torch.cat([F.pad(each, (0, width - each.shape[-1])) for each in rows])

    def softmax(self, batch: Batch) -> Tensor:
        """The last hidden states at polarity 0."""
        return self.hidden(batch, [AttentionCall.compute] * len(self.modules), polarity=0.0)

    def measure(self, batch: Batch, softmax: Tensor, *, polarity: float | None = None) -> tuple[tuple[float, ...], float]:
        """The negative mass of every module, and the mean cosine of the last hidden states to those of softmax.

        Args:
            batch: the model's inputs.
            softmax: what `softmax` returned for them.
            polarity: as for `hidden`.
        """
        masses: dict[int, float] = {}

        def measuring(layer: int) -> AttentionFunction:
            def _measure(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
                output, weights = call.compute_with_weights()
                weights = weights[:, chosen_heads(call.module)].double().transpose(1, 2)[real_rows(call)]
                masses[layer] = float(-weights.clamp(max=0).sum() / weights.abs().sum().clamp(min=TINY))
                return output, weights

            return _measure

        hidden = self.hidden(batch, [measuring(layer) for layer in range(len(self.modules))], polarity=polarity)
        cosine = F.cosine_similarity(hidden.double(), softmax.double(), dim=-1).mean()
        return tuple(masses[layer] for layer in sorted(masses)), float(cosine)

    def noting(self, function: AttentionFunction) -> AttentionFunction:
        """The same function, which also notes in `real` which rows are no padding."""

        def _function(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
            self.real = real_rows(call)
            return function(call)

        return _function


def _last_states(output: Any) -> list[Tensor]:
    """The last hidden states `[batch, length, hidden]` that a model returns first, or that the outputs of its parts hold."""
    values = values_of(output)
    if values and isinstance(values[0], Tensor) and values[0].dim() in (3, 4):  # or channels of a picture
        return [values[0] if values[0].dim() == 3 else values[0].flatten(2).mT]
    parts = [state for each in values if isinstance(each, Mapping) for state in _last_states(each)]
    return parts or [each[:, None] for each in values[:1] if isinstance(each, Tensor) and each.dim() == 2]


def values_of(output: Any) -> list[Any]:
    """What a model returns, one after another."""
    return list(output.values()) if isinstance(output, Mapping) else list(output) if isinstance(output, tuple | list) else [output]


def run_model(model: nn.Module, batch: Batch) -> Any:
    """Run a model on a batch, and return what it returns.

    Raises:
        ValueError: the model refuses the inputs.
        torch.OutOfMemoryError: the batch does not fit into memory; the message says what to lower.
    """
    largest = max((value.shape for value in batch.values() if isinstance(value, Tensor)), key=len, default=())
    try:
        with out_of_memory_in_words(largest):
            return model(**on_device(model, batch))
    except (NotImplementedError, torch.OutOfMemoryError):
        raise
    except OF_INPUTS as error:
        raise ValueError(f"{type(model).__name__} cannot run on a batch of {', '.join(batch)}: {one_line(error, 300)}") from error


@contextmanager
def out_of_memory_in_words(shape: Sequence[int]) -> Iterator[None]:
    """Say of a batch that does not fit into memory what to lower.

    Args:
        shape: the batch's, as the message names it.

    Raises:
        torch.OutOfMemoryError: for whatever the allocators of PyTorch and Python raise.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On the CPU PyTorch raises a plain RuntimeError, which only its text tells from others.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        size = " x ".join(map(str, shape))
        raise torch.OutOfMemoryError(
            f"a batch of {size} does not fit into memory; give batches of fewer rows, or of shorter ones: {one_line(error, 200)}"
        ) from error


def check_batch(batch: object) -> None:
    """Refuse what is no mapping of a model's inputs.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(
            "batches must be a list of mappings of the model's inputs, such as [tokenizer(texts, padding=True, return_tensors='pt')], "
            f"but holds {type(batch).__name__}"
        )


def chosen_heads(module: nn.Module) -> list[int]:
    """Indices of the heads of an attention module that compute TanhMax; of a softmax model all."""
    chosen = getattr(module.config, "tanhmax_heads", None)
    return list(range(heads_of(module)) if chosen is None else chosen)


def on_device(model: nn.Module, batch: Batch) -> dict[str, object]:
    """The inputs where the model's first parameter is, floating-point ones in its dtype."""
    like = next(model.parameters())
    return {
        name: value.to(like.device, like.dtype if value.is_floating_point() else value.dtype) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
