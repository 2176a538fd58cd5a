"""Text that language models write: samples to calibrate on, and greedy continuations of prompts beside those of the softmax model."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Continuations:
    """What the softmax model says after each prompt.

    Attributes:
        softmax: the model, float32.
        prompts: `[prompts, prompt length]`.
        tokens: its continuations, `[prompts, length]`.
        log_likelihood: of one of these tokens, in the mean.
    """

    softmax: PreTrainedModel
    prompts: Tensor
    tokens: Tensor
    log_likelihood: float

    @classmethod
    def of(cls, softmax: PreTrainedModel, prompts: Tensor, length: int) -> "Continuations":
        """Continue the prompts with the softmax model."""
        tokens = continued(softmax, prompts, length)
        return cls(softmax, prompts, tokens, _log_likelihood(softmax, prompts, tokens))

    def compare(self, model: PreTrainedModel) -> dict[str, Any]:
        """Continuations of a model beside these.

        Returns:
            `agreement`, the share of tokens that are the same at the same place; `prefix`, the mean number of tokens before the first that
            differs; `equal`, the share of continuations without any; `log_likelihood`, under the softmax model, of a token that this model
            chose, in the mean; and `softmax_log_likelihood`, of one that the softmax model chose itself.
        """
        length = self.tokens.shape[1]
        tokens = continued(model, self.prompts, length)
        same = tokens == self.tokens
        prefix = same.int().cumprod(-1).sum(-1)
        return {
            "agreement": same.double().mean().item(),
            "prefix": prefix.double().mean().item(),
            "equal": (prefix == length).double().mean().item(),
            "log_likelihood": _log_likelihood(self.softmax, self.prompts, tokens),
            "softmax_log_likelihood": self.log_likelihood,
            "prompts": len(tokens),
            "length": length,
        }

    def in_bfloat16(self) -> dict[str, Any]:
        """The same for the softmax model rounded to bfloat16: what is no difference."""
        rounded: Any = copy.deepcopy(self.softmax)
        return self.compare(rounded.to(torch.bfloat16))


@torch.no_grad()
def sampled(model: PreTrainedModel, start: int, rows: int, length: int, seed: int) -> Tensor:
    """`[rows, length]`: what a model writes by itself at temperature 1, after one token that begins a text.

    Matrix products are in bfloat16 on the CPU; `start` is that token.
    """
    begin = torch.full((rows, 1), start, device=model.device)
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_new_tokens": length - 1, "max_new_tokens": length - 1}
    with torch.random.fork_rng(), torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(seed)
        generated: Tensor = model.generate(begin, attention_mask=torch.ones_like(begin), pad_token_id=0, **options)  # type: ignore[operator]
    return generated


@torch.no_grad()
def continued(model: PreTrainedModel, prompts: Tensor, length: int) -> Tensor:
    """`[prompts, length]`: greedy continuations, which no end of text cuts short."""
    generated: Tensor = model.generate(  # type: ignore[operator]
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=length, min_new_tokens=length, pad_token_id=0
    )
    return generated[:, prompts.shape[1] :]


@torch.no_grad()
def _log_likelihood(softmax: PreTrainedModel, prompts: Tensor, tokens: Tensor) -> float:
    start, total = prompts.shape[1] - 1, 0.0
    for prompt, row in zip(prompts, tokens, strict=True):
        logits = softmax(torch.cat([prompt, row])[None], use_cache=False).logits[0, start:-1]
        total += logits.log_softmax(-1).gather(-1, row[:, None]).sum().item()
    return total / tokens.numel()
