"""Integrated gradients (Sundararajan, Taly and Yan 2017), computed by captum on a model's embeddings or pixels."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...checkpoint import text_config
from ...errors import optional_package
from ..inputs.encoding import IDS, PIXELS
from .evaluation_mode import input_embeddings
from .forward_passes import target_logits
from .target import Target

# Enough for TanhMax on MiniLM to add up to a thousandth; attention with signs bends the path more than softmax does.
STEPS = 64
# Tokens of the path from baseline to input that go through the model at once, an image counted as 256: memory, not result.
TOKENS_PER_BATCH = 8192
TOKENS_PER_IMAGE = 256


@dataclass(frozen=True)
class IntegratedGradients:
    """Integrated gradients of one input.

    Attributes:
        scores: `[positions]` for a text, `[height, width]` of pixels (channels added up) for an image, in logits.
        gap: logit of the input less logit of the baseline, less the sum of the scores; 0 if the steps were enough (completeness).
    """

    scores: Tensor
    gap: float


def integrated_gradients(
    model: PreTrainedModel, inputs: dict[str, Tensor], target: Target, *, special: list[bool], baseline: int, steps: int = STEPS
) -> IntegratedGradients:
    """The change of the logit along the straight path from a baseline to the input, attributed to its positions.

    The baseline of a text replaces every token that is not special by one token; that of an image is 0, the mean grey of its
    normalisation.

    Args:
        model: in evaluation mode.
        inputs: a batch of one.
        target: which logit.
        special: per token, whether it stays as it is in the baseline; not read for images.
        baseline: the token of the baseline; not read for images.
        steps: of the Gauss-Legendre rule.

    Raises:
        ImportError: captum is not installed.
    """
    captum = optional_package("captum.attr", "integrated gradients")
    main = IDS if IDS in inputs else PIXELS
    others = [name for name in inputs if name not in (IDS, PIXELS)]

    def _forward(first: Tensor, *rest: Tensor) -> Tensor:
        batch = {main: first, **dict(zip(others, rest, strict=True))}
        return target_logits(model, batch, [target.position] * len(first))[:, target.index]

    tokens = inputs[main].shape[1] if main == IDS else TOKENS_PER_IMAGE
    options = {
        "additional_forward_args": tuple(inputs[name] for name in others) or None,
        "n_steps": steps,
        "internal_batch_size": max(1, min(steps, TOKENS_PER_BATCH // tokens)),
    }
    other_inputs = [inputs[name] for name in others]
    if main == PIXELS:
        blank = torch.zeros_like(inputs[PIXELS])
        scores = captum.IntegratedGradients(_forward).attribute(inputs[PIXELS], blank, **options).detach()[0].float().sum(0)
        with torch.no_grad():
            baseline_logit = _forward(blank, *other_inputs)
    else:
        kept = torch.tensor([special], device=inputs[IDS].device)
        reference = torch.where(kept, inputs[IDS], torch.full_like(inputs[IDS], baseline))
        embeddings = input_embeddings(model)
        attributed = captum.LayerIntegratedGradients(_forward, embeddings).attribute(inputs[IDS], reference, **options)
        scores = attributed.detach()[0].float().sum(-1)
        # Not the logit of the baseline's tokens: a decoder that classifies looks for padding among them to find its last position.
        with torch.no_grad(), _replaced_output(embeddings, embeddings(reference)):
            baseline_logit = _forward(inputs[IDS], *other_inputs)
    with torch.no_grad():
        change = _forward(inputs[main], *other_inputs) - baseline_logit
    return IntegratedGradients(scores.cpu(), float(change) - float(scores.sum()))


@contextmanager
def _replaced_output(module: nn.Module, output: Tensor) -> Iterator[None]:
    """Let a module return something else inside a `with` block."""
    handle = module.register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        handle.remove()


def baseline_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> int:
    """The token that carries no information: the mask token, else the end of a text, else padding, else 0.

    Padding comes late because its embedding may be 0, and a decoder's first norm scales whatever is not 0 to one length: along the path
    from 0 nothing would change but at its very start, where no quadrature looks.
    """
    config = text_config(model)
    order = ((tokenizer, "mask_token_id"), (tokenizer, "eos_token_id"), (config, "eos_token_id"), (tokenizer, "pad_token_id"))
    for holder, name in (*order, (config, "pad_token_id")):
        token = getattr(holder, name, None)
        if isinstance(token, int):
            return token
    return 0
