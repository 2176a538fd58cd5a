"""Integrated gradients (Sundararajan, Taly and Yan 2017), computed by captum on a model's embeddings or pixels."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import optional_package
from ..inputs.encoding import IDS, PIXELS
from .calling import rows_of_logits
from .target import Target

# Enough for TanhMax on MiniLM to add up to a thousandth; attention with signs bends the path more than softmax does.
STEPS = 64
# Tokens of the path from baseline to input that go through the model at once, a picture counted as 256: memory, not result.
TOKENS = 8192


@dataclass(frozen=True)
class Integrated:
    """Integrated gradients of one input.

    Attributes:
        scores: `[positions]` for a text, `[rows, columns]` of pixels (channels added up) for an image, in logits.
        gap: logit of the input less logit of the baseline, less the sum of the scores; 0 if the steps were enough.
    """

    scores: Tensor
    gap: float


def integrated_gradients(
    model: Any, inputs: dict[str, Tensor], target: Target, *, special: list[bool], baseline: int, steps: int = STEPS
) -> Integrated:
    """How the logit grows along the straight path from a baseline to the input, shared out to its positions.

    The baseline of a text replaces every token that is not special by one token; that of an image is 0, the mean grey of its
    normalisation.

    Args:
        model: in evaluation mode.
        inputs: of the model, a batch of one.
        target: which logit.
        special: for each token whether it stays as it is in the baseline; not read for images.
        baseline: the token of the baseline; not read for images.
        steps: of the Gauss-Legendre rule.

    Raises:
        ImportError: captum is not installed.
    """
    captum = optional_package("captum.attr", "integrated gradients")
    names = [name for name in inputs if name not in (IDS, PIXELS)]
    main = IDS if IDS in inputs else PIXELS

    def _forward(first: Tensor, *rest: Tensor) -> Tensor:
        given = {main: first, **dict(zip(names, rest, strict=True))}
        return rows_of_logits(model, given, [target.position] * len(first))[:, target.index]

    options = {
        "additional_forward_args": tuple(inputs[name] for name in names) or None,
        "n_steps": steps,
        "internal_batch_size": max(1, min(steps, TOKENS // (inputs[main].shape[1] if main == IDS else 256))),
    }
    if main == PIXELS:
        blank = torch.zeros_like(inputs[PIXELS])
        found = captum.IntegratedGradients(_forward).attribute(inputs[PIXELS], blank, **options).detach()[0].float().sum(0)
        with torch.no_grad():
            reached = _forward(blank, *(inputs[name] for name in names))
    else:
        kept = torch.tensor([special], device=inputs[IDS].device)
        reference = torch.where(kept, inputs[IDS], torch.full_like(inputs[IDS], baseline))
        embeddings = model.get_input_embeddings()
        attributed = captum.LayerIntegratedGradients(_forward, embeddings).attribute(inputs[IDS], reference, **options)
        found = attributed.detach()[0].float().sum(-1)
        # Not the logit of the baseline's tokens: a decoder that classifies looks for padding among them to find its last position.
        with torch.no_grad(), _embedded(embeddings, embeddings(reference)):
            reached = _forward(*(inputs[name] for name in (IDS, *names)))
    with torch.no_grad():
        gain = _forward(*(inputs[name] for name in (main, *names))) - reached
    return Integrated(found.cpu(), float(gain) - float(found.sum()))


@contextmanager
def _embedded(embeddings: nn.Module, output: Tensor) -> Iterator[None]:
    """Let an embedding layer return something else inside a `with` block."""
    handle = embeddings.register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        handle.remove()


def baseline_token(model: Any, tokenizer: Any) -> int:
    """The token that stands for no information: the mask token, else the end of a text, else padding, else 0.

    Padding comes late because its embedding may be 0, and a decoder's first norm scales whatever is not 0 to one length: along the path
    from 0 nothing would change but at its very start, where no quadrature looks.
    """
    order = ((tokenizer, "mask_token_id"), (tokenizer, "eos_token_id"), (model.config, "eos_token_id"), (tokenizer, "pad_token_id"))
    for holder, name in (*order, (model.config, "pad_token_id")):
        found = getattr(holder, name, None)
        if isinstance(found, int):
            return found
    return 0
