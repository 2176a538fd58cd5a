"""What an explanation holds: one input, one target, the signed weights of every head, and what each position did to the target's logit."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Explanation:
    """Signed attention of one input, seen from one logit.

    Shapes: L layers, H heads, Q queries and K keys (positions without padding), all float32 on the CPU.

    Attributes:
        family: "bert", "vit", "llama" or the model type of another architecture.
        tokens: K readable tokens, or for images "[CLS]" and "row, column" of each patch.
        words: for each position the index of its word in `word_texts`, None for special tokens.
        word_texts: the words that tokens are merged to; for images the patches.
        target: index of the class or vocabulary entry that is explained.
        target_name: its name, as the model's config or tokenizer has it.
        logit: the model's output for the target, before softmax.
        probability: the same after softmax over all targets.
        position: the query position whose output the logit is read from; None where the head pools all positions.
        layers: the model's index of each of the L layers.
        signed: for each of the L layers whether it computes TanhMax (False: softmax).
        weights: raw attention weights, [L, H, Q, K].
        orientation: 1.0 or -1.0 for each head, [L, H]: the sign by which a positive oriented weight speaks for the target.
        one_signed: heads whose raw weights have (nearly) one sign, [L, H] bool: orientation says little there.
        contributions: w_ij <v_j, d logit / d o_i>, [L, H, Q, K], in logits to first order.
        scores: named scores of each position, each [K]; positive speaks for the target. At least "weights", "oriented", "contributions",
            "rollout", "gradient", "input_x_gradient", "integrated_gradients", as far as they were asked for; "gradient" is a size, >= 0.
        image: the picture (PIL, RGB), for images.
        grid: rows and columns of patches, for images.
        model_name: what the model calls itself, for titles.
        notes: sentences that a reader should know, such as that the model computes softmax.
    """

    family: str
    tokens: tuple[str, ...]
    words: tuple[int | None, ...]
    word_texts: tuple[str, ...]
    target: int
    target_name: str
    logit: float
    probability: float
    position: int | None
    layers: tuple[int, ...]
    signed: tuple[bool, ...]
    weights: Tensor
    orientation: Tensor
    one_signed: Tensor
    contributions: Tensor
    scores: dict[str, Tensor]
    image: Any = None
    grid: tuple[int, int] | None = None
    model_name: str = ""
    notes: tuple[str, ...] = ()

    @property
    def oriented(self) -> Tensor:
        """Weights times the orientation of their head, [L, H, Q, K]."""
        return self.weights * self.orientation[:, :, None, None]

    def by_word(self, name: str) -> Tensor:
        """Scores of one name, summed over the positions of each word, [words]; special tokens are left out.

        Raises:
            ValueError: there are no scores of that name.
        """
        if name not in self.scores:
            raise ValueError(f'there are no scores named "{name}"; this explanation has {", ".join(self.scores)}')
        found = torch.zeros(len(self.word_texts), dtype=self.scores[name].dtype)
        for score, word in zip(self.scores[name], self.words, strict=True):
            if word is not None:
                found[word] += score
        return found
