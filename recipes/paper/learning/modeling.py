r"""The paper's classifier: one self-attention in which every token scores itself, and a read-out of one logit.

For the embeddings :math:`x_i` of a sentence, with :math:`q_i, k_i, v_i` linear in :math:`x_i`,

.. math:: a_i = q_i \cdot k_i / s \quad\text{or}\quad a_i = v^\top \tanh(q_i + k_i), \qquad
          z = d \cdot \mathrm{dropout}\Big(\sum_i w_i v_i\Big) + b

where :math:`w` is softmax, tanh or TanhMax of the scores over the kept tokens (Huang et al. 2024, section 4). Without dropout the logit is
:math:`z = b + \sum_i w_i u_i` with the effects :math:`u_i = d \cdot v_i`. Score and value of a token hang on its word alone, so they are
computed once for each different word of a batch.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from hf_tanhmax import tanhmax

SCORES = ("dot", "additive")
ATTENTIONS = ("softmax", "tanh", "tanhmax")
POLARITIES = {"softmax": 0.0, "tanhmax": 1.0}


class PaperConfig(PretrainedConfig):
    """Sizes and choices of a `PaperClassifier`.

    Args:
        vocab_size: words, padding and unknown ones included.
        embedding_size: E.
        hidden_size: H, of queries, keys and values.
        score_function: "dot" or "additive".
        attention: "softmax", "tanh" or "tanhmax".
        scale: what dot scores are divided by.
        readout_dropout: of the attended vector.
        mask_padding: whether padding is left out; the published code lets it take part.
        score_gain: factor on the initial weights and biases of queries and keys (of queries only for additive scores: of their vector v).
        score_bias: where a learned constant starts that is added to every score; None has none, as the paper.

    Raises:
        ValueError: an unknown score function or attention.
    """

    model_type = "paper_classifier"

    def __init__(
        self,
        vocab_size: int = 8002,
        embedding_size: int = 30,
        hidden_size: int = 10,
        score_function: str = "dot",
        attention: str = "tanhmax",
        scale: float = 3.0,
        readout_dropout: float = 0.5,
        mask_padding: bool = True,
        score_gain: float = 1.0,
        score_bias: float | None = None,
        pad_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        for name, value, known in (("score_function", score_function, SCORES), ("attention", attention, ATTENTIONS)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, but is {value!r}")
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.score_function = score_function
        self.attention = attention
        self.scale = scale
        self.readout_dropout = readout_dropout
        self.mask_padding = mask_padding
        self.score_gain = score_gain
        self.score_bias = score_bias
        super().__init__(**{**kwargs, "pad_token_id": pad_token_id})


@dataclass
class PaperOutput(ModelOutput):
    """What the classifier computes, B sentences of L positions.

    Attributes:
        loss: mean binary cross entropy, where labels were given.
        logits: z, [B]; positive speaks for class 1.
        scores: a, [B, L], also at positions that are not kept.
        weights: w, [B, L], 0 where not kept.
        effects: u = d . v_i, [B, L]: what a weight of 1 would add to the logit.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    scores: Tensor | None = None
    weights: Tensor | None = None
    effects: Tensor | None = None


class PaperClassifier(PreTrainedModel):
    """The classifier of Huang et al. 2024, with padding masked unless the config says otherwise."""

    config_class = PaperConfig
    main_input_name = "input_ids"

    def __init__(self, config: PaperConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.query = nn.Linear(config.embedding_size, config.hidden_size)
        self.key = nn.Linear(config.embedding_size, config.hidden_size)
        self.value = nn.Linear(config.embedding_size, config.hidden_size)
        if config.score_function == "additive":
            self.score_vector = nn.Parameter(torch.zeros(config.hidden_size))
        if config.score_bias is not None:
            self.score_bias = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(config.readout_dropout)
        self.readout = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """As the paper: embeddings uniform in +-0.1, the rest as `nn.Linear` begins; v standard normal."""
        config = self.config
        dot = config.score_function == "dot"
        if isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -0.1, 0.1)
        elif isinstance(module, nn.Linear):
            gain = config.score_gain if dot and module in (self.query, self.key) else 1.0
            bound = gain / sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.uniform_(module.bias, -bound, bound)
        elif module is self:
            if not dot:
                nn.init.normal_(self.score_vector, std=config.score_gain)
            if config.score_bias is not None:
                nn.init.constant_(self.score_bias, config.score_bias)

    def keep(self, input_ids: Tensor) -> Tensor:
        """Which positions take part, [B, L] boolean: all but padding, or all where the config does not mask it."""
        return input_ids != self.config.pad_token_id if self.config.mask_padding else torch.ones_like(input_ids, dtype=torch.bool)

    def parts(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Score [..., 1] and value [..., H] of each embedding [..., E]."""
        query, key = self.query(embeddings), self.key(embeddings)
        if self.config.score_function == "dot":
            scores = (query * key).sum(-1, keepdim=True) / self.config.scale
        else:
            scores = torch.tanh(query + key) @ self.score_vector[:, None]
        if self.config.score_bias is not None:
            scores = scores + self.score_bias
        return scores, self.value(embeddings)

    def activate(self, scores: Tensor, keep: Tensor) -> Tensor:
        """Weights [B, L] of scores [B, L] over the kept positions."""
        if self.config.attention == "tanh":
            return torch.tanh(scores).masked_fill(~keep, 0.0)
        return tanhmax(scores, keep, polarity=POLARITIES[self.config.attention])

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> PaperOutput:
        """Logits, scores, weights and effects of sentences.

        Args:
            input_ids: [B, L].
            attention_mask: [B, L], not 0 where a position takes part; None is `keep(input_ids)`.
            inputs_embeds: [B, L, E] in place of `input_ids`, every position with an embedding of its own; needs an attention_mask.
            labels: [B], 0 or 1.

        Raises:
            ValueError: not exactly one of `input_ids` and `inputs_embeds`, or embeddings without a mask.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if input_ids is not None:
            words, places = input_ids.unique(return_inverse=True)
            scores, values = (nn.functional.embedding(places, table) for table in self.parts(self.embeddings(words)))
            keep = self.keep(input_ids) if attention_mask is None else attention_mask.bool()
        elif inputs_embeds is None or attention_mask is None:
            raise ValueError("inputs_embeds do not say what is padding; give an attention_mask beside them")
        else:
            scores, values = self.parts(inputs_embeds)
            keep = attention_mask.bool()
        scores = scores.squeeze(-1)
        weights = self.activate(scores, keep)
        context = (weights.unsqueeze(-2) @ values).squeeze(-2)
        effects = values @ self.readout.weight[0]
        logits = self.readout(self.dropout(context)).squeeze(-1)
        loss = None if labels is None else nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return PaperOutput(loss=loss, logits=logits, scores=scores, weights=weights, effects=effects)
