"""What of a call is no tensor, and the launch arguments that follow from it: found out once, as all layers of a model are called alike."""

from functools import lru_cache
from typing import Any, NamedTuple

from .primitives import LOG2E
from .schedule import Tile, padded_size

ALIGN = 8  # elements: 16 bytes in half precision, the widest load
REMEMBERED = 1024  # layouts: a cache that grows has a new one with each token


class Layout(NamedTuple):
    """Sizes, strides and numbers of a call.

    Attributes:
        query: batch, heads, queries, head_dim.
        value: kv_heads, keys, value_dim.
        row_strides: of query, key and value, by batch entry, head and row.
        bias_strides, keep_strides: of the expanded tensors; zeros where there is none.
        masking: causal, offset, window.
        numbers: scale, softcap, dropout_p.
        polarity: 0, 1, or 2 for one per head.
        single: whether the tensors are float32.
        exact: whether float32 is multiplied without TF32.
        additive: whether what the pointer of the bias holds is an additive mask.
    """

    query: tuple[int, int, int, int]
    value: tuple[int, int, int]
    row_strides: tuple[int, ...]
    bias_strides: tuple[int, ...]
    keep_strides: tuple[int, ...]
    masking: tuple[bool, int, int | None]
    numbers: tuple[float, float | None, float]
    polarity: int
    single: bool
    exact: bool
    additive: bool

    @property
    def alignment(self) -> int:
        """What all strides and sizes are multiples of: `ALIGN`, or 1."""
        return ALIGN if all(size % ALIGN == 0 for size in (self.query[3], self.value[2], *self.row_strides)) else 1


@lru_cache(maxsize=REMEMBERED)
def launch_numbers(layout: Layout, tile: Tile) -> dict[str, Any]:
    """The launch arguments that are no tensors, and the constants; not to be changed."""
    batch, heads, queries, _ = layout.query
    kv_heads, keys, _ = layout.value
    by_row = zip(["q_b", "q_h", "q_m", "k_b", "k_h", "k_n", "v_b", "v_h", "v_n"], layout.row_strides, strict=True)
    found: dict[str, Any] = {name: stride // layout.alignment for name, stride in by_row}
    for name, strides in (("bias", layout.bias_strides), ("keep", layout.keep_strides)):
        found |= {f"{name}_{dim}": stride for dim, stride in zip("bhmn", strides, strict=True)}
    _, offset, window = layout.masking
    found |= {"queries": queries, "keys": keys, "heads": heads, "groups": heads // kv_heads, "rows": batch * heads * queries}
    found |= {"offset": offset, "window": 0 if window is None else min(window, queries + keys)}
    scale, softcap, dropout_p = layout.numbers
    unit = 1.0 if layout.exact else LOG2E.value
    found |= {"dropout_p": dropout_p, "scale": scale * unit, "cap": 0.0}
    if softcap is not None:
        found |= {"scale": scale / softcap, "cap": softcap * unit}
    return found | launch_constants(layout, tile)


def launch_constants(layout: Layout, tile: Tile) -> dict[str, Any]:
    """What a kernel is compiled for: no length is among it."""
    dim, value_dim = layout.query[3], layout.value[2]
    causal, _, window = layout.masking
    _, softcap, dropout_p = layout.numbers
    return {
        "DIM": dim,
        "VALUE_DIM": value_dim,
        "BLOCK_DIM": padded_size(dim),
        "BLOCK_VALUE": padded_size(value_dim),
        "ALIGN": layout.alignment,
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.columns,
        "POLARITY": layout.polarity,
        "CAUSAL": causal,
        "WINDOW": window is not None,
        "CAPPED": softcap is not None,
        "DROPOUT": dropout_p > 0,
        "ADDITIVE": layout.additive,
        "PRECISION": "tf32" if layout.single and not layout.exact else "ieee",
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": True,
        **({} if tile.registers is None else {"maxnreg": tile.registers}),
    }
