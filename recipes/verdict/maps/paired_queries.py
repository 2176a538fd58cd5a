"""What differential attention adds to an attention module: a second query per head, and a gate, both linear in the hidden state."""

import torch
from torch import Tensor, nn

QUERY_NAMES = ("query", "q_proj")  # of BERT; of ViT and LLaMA


class PairedQueries(nn.Module):
    """In place of a query projection: two queries per head, one after the other, as query heads that share a key head are ordered.

    Args:
        projection: that it replaces.
        heads: of the module.
        deviation: of the first weights.
    """

    def __init__(self, projection: nn.Linear, heads: int, deviation: float) -> None:
        super().__init__()
        self.queries = nn.Linear(projection.in_features, 2 * projection.out_features, bias=projection.bias is not None)
        self.gate = nn.Linear(projection.in_features, heads, bias=False)
        for layer in (self.queries, self.gate):
            nn.init.normal_(layer.weight, std=deviation)
        if self.queries.bias is not None:
            nn.init.zeros_(self.queries.bias)
        self.gates: Tensor | None = None  # `[batch, heads, queries, 1]`, of the last call

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Queries `[batch, queries, 2 * heads * head_dim]`; the gates are kept for the attention function, which is called next."""
        self.gates = torch.sigmoid(self.gate(hidden_states)).transpose(1, 2)[..., None]
        queries: Tensor = self.queries(hidden_states)
        return queries


def pair_queries(module: nn.Module, heads: int, deviation: float) -> None:
    """Give an attention module paired queries."""
    name = next(name for name in QUERY_NAMES if hasattr(module, name))
    setattr(module, name, PairedQueries(getattr(module, name), heads, deviation))


def paired_queries(module: nn.Module) -> PairedQueries:
    """Those of an attention module.

    Raises:
        ValueError: it has none.
    """
    found = next((value for name in QUERY_NAMES if isinstance(value := getattr(module, name, None), PairedQueries)), None)
    if found is None:
        raise ValueError(f"{type(module).__name__} has one query per head, but differential attention needs two")
    return found
