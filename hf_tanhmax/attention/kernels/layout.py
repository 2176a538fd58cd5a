"""Launch arguments other than tensors, computed once for calls of the same sizes and numbers, such as those of a model's layers."""

from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from .primitives import LOG2E
from .schedule import Tile, padded_size

ALIGN = 8  # elements: 16 bytes in half precision, the widest load
CACHED_LAYOUTS = 1024  # layouts: a cache that grows has a new one with each token

Numbers = dict[str, int | float | str]


class Layout(NamedTuple):
    """Sizes, strides and numbers of a call.

    Attributes:
        row_strides: of query, key and value, by batch entry, head and row.
        bias_strides, keep_strides: of the expanded tensors; zeros where there is none.
        polarity: 0, 1, or 2 for one per head; 1 if balanced, whatever the polarity.
        single: whether the tensors are float32.
        exact: whether float32 is computed to its last digits, which TF32 does not.
        split: whether it is multiplied as three TF32 products of split numbers then.
        additive: whether what the pointer of the bias holds is an additive mask.
        balanced: whether the shift is balanced, and each row has two sums.
    """

    batch: int
    heads: int
    queries: int
    dim: int
    kv_heads: int
    keys: int
    value_dim: int
    row_strides: tuple[int, ...]
    bias_strides: tuple[int, ...]
    keep_strides: tuple[int, ...]
    causal: bool
    offset: int
    window: int | None
    scale: float
    softcap: float | None
    dropout_p: float
    polarity: int
    single: bool
    exact: bool
    split: bool
    additive: bool
    balanced: bool

    @property
    def alignment(self) -> int:
        """What all strides and sizes are multiples of: `ALIGN`, or 1."""
        return alignment_of((self.dim, self.value_dim, *self.row_strides))

    @property
    def precision(self) -> str:
        """How `tl.dot` multiplies; half precision knows one way."""
        if not self.single or (self.exact and not self.split):
            return "ieee"
        return "tf32x3" if self.exact else "tf32"


def broadcast_strides(tensor: Tensor | None) -> tuple[int, ...]:
    """Strides with which a tensor of 4 dimensions is read as a larger one, to which it broadcasts; zeros where there is none."""
    if tensor is None:
        return (0, 0, 0, 0)
    return tuple([0 if size == 1 else stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)])


@lru_cache(maxsize=CACHED_LAYOUTS)
def alignment_of(sizes: tuple[int, ...]) -> int:
    """What all sizes are multiples of: `ALIGN`, or 1."""
    return ALIGN if all(size % ALIGN == 0 for size in sizes) else 1


@lru_cache(maxsize=CACHED_LAYOUTS)
def launch_numbers(layout: Layout, tile: Tile) -> Numbers:
    """The launch arguments that are no tensors, constants included; not to be changed."""
    unit = 1.0 if layout.exact else LOG2E.value
    numbers: Numbers = {
        "queries": layout.queries,
        "keys": layout.keys,
        "heads": layout.heads,
        "groups": layout.heads // layout.kv_heads,
        "rows": layout.batch * layout.heads * layout.queries * (2 if layout.balanced else 1),
        "offset": layout.offset,
        "window": 0 if layout.window is None else min(layout.window, layout.queries + layout.keys),
        "scale": layout.scale * unit if layout.softcap is None else layout.scale / layout.softcap,
        "cap": 0.0 if layout.softcap is None else layout.softcap * unit,
        "dropout_p": layout.dropout_p,
    }
    row_strides = [stride // layout.alignment for stride in layout.row_strides]
    numbers |= dict(zip(["q_b", "q_h", "q_m", "k_b", "k_h", "k_n", "v_b", "v_h", "v_n"], row_strides, strict=True))
    numbers |= dict(zip(["bias_b", "bias_h", "bias_m", "bias_n"], layout.bias_strides, strict=True))
    numbers |= dict(zip(["keep_b", "keep_h", "keep_m", "keep_n"], layout.keep_strides, strict=True))
    return numbers | launch_constants(layout, tile)


def launch_constants(layout: Layout, tile: Tile) -> Numbers:
    """What a kernel is compiled for: no length is among it."""
    return {
        "DIM": layout.dim,
        "VALUE_DIM": layout.value_dim,
        "BLOCK_DIM": padded_size(layout.dim),
        "BLOCK_VALUE": padded_size(layout.value_dim),
        "ALIGN": layout.alignment,
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.columns,
        "POLARITY": layout.polarity,
        "CAUSAL": layout.causal,
        "WINDOW": layout.window is not None,
        "CAPPED": layout.softcap is not None,
        "DROPOUT": layout.dropout_p > 0,
        "ADDITIVE": layout.additive,
        "BALANCED": layout.balanced,
        "PRECISION": layout.precision,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": True,
        **({} if tile.registers is None else {"maxnreg": tile.registers}),
    }
