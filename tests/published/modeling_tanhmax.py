"""TanhMax attention for Hugging Face Transformers: the code of this checkpoint, in one file.

It is run by `from_pretrained(..., trust_remote_code=True)` where hf_tanhmax is not installed; where it is imported, this file is not used.
hf_tanhmax writes it from its own modules whenever a model is saved, so do not edit it. Licence: Apache-2.0.
"""

VERSION = "0.1.0"
DIGEST = "79d6de670deb0f931102ef8c1bc57ac0b73e1c92905d6644c641668477a16e8d"  # sha256 of what follows this line

import transformers

if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 17):
    raise ImportError(f"this checkpoint needs transformers 5.17 or newer, but {transformers.__version__} is installed")

import __future__
import ast
import builtins
import ctypes
import dis
import functools
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import linecache
import logging
import math
import operator
import os
import platform
import re
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import torch
import transformers
import types
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from huggingface_hub.dataclasses import strict
from importlib import import_module
from pathlib import Path
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLMHeadModel,
    BertModel,
    BertTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
    initialization as init,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.masking_utils import sdpa_mask
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar


# This file is run once for every checkpoint that brings it, and the operators of one run must not be taken away by the next.
NAMESPACES = (f"hf_tanhmax_{DIGEST[:8]}_{count}" for count in itertools.count())
NAMESPACE = next(name for name in NAMESPACES if not hasattr(getattr(torch.ops, name), "blocked_attention"))
CODE_FILE = "modeling_tanhmax.py"


def source() -> str:
    """This file, to be saved beside a model that it loaded."""
    return Path(__file__).read_bytes().decode()


# hf_tanhmax/functional.py
r"""The TanhMax map: signed attention coefficients from scores.

For the scores :math:`a_j` of one query over its kept keys, and a polarity :math:`p \in [0, 1]`,

.. math:: w_j = \frac{e^{a_j} - p\,e^{-a_j}}{\sum_k e^{a_k} + p\,e^{-a_k}}

* :math:`p = 1` is TanhMax, :math:`\sinh(a_j) / \sum_k \cosh(a_k)` (Huang, Yang and Wang 2024, doi 10.6339/24-JDS1134): odd in the
  scores, :math:`|w_j| < 1`, :math:`\sum_j |w_j| \le 1`.
* :math:`p = 0` is softmax, exactly.
* :math:`p = e^{-2c}` is TanhMax of :math:`a + c`: polarity is a score bias.

Edge cases, all with finite gradients:

* a key that is not kept has weight 0 and adds nothing to the denominator; what its score is does not matter, not even NaN;
* a row without a kept key has weights 0 and gradients 0;
* an infinite score saturates: its weight is its share of :math:`\pm 1`; a kept NaN propagates.

What softmax models add to their scores to hide keys or to let them fade, an additive mask :math:`m`, is no part of the score, whose sign
is the weight's. Softmax multiplies the share of a key by :math:`e^{m_j}`, and so does the map, in numerator and denominator alike:

.. math:: w_j = \frac{e^{m_j} (e^{a_j} - p\,e^{-a_j})}{\sum_k e^{m_k} (e^{a_k} + p\,e^{-a_k})}

* it changes no sign; a constant added to the m of a row changes nothing; p = 0 is softmax of :math:`a + m`, exactly;
* :math:`m = 0` changes nothing, :math:`m = -\infty` hides, and anything between fades; from -9000 down a key counts as not kept (softmax
  gives it exactly 0 beside any other), so that rows which hold nothing else are 0;
* :math:`dL/da = C\,dP - W D` and :math:`dL/dm = W\,dP - C D` with :math:`C` the weights with a plus for the minus, :math:`dP` the gradient
  of the weights and :math:`D = \sum_j W_j\,dP_j`.

The sums are shifted by :math:`\max_k m_k + \max(a_k, -a_k + \log p)`, so no exponential overflows. The difference is formed as
:math:`\tanh(a + c)\,(e^{a} + p\,e^{-a})` where p is near 1, which keeps the digits that a subtraction loses around 0.
"""


# An additive mask hides with -10000, -1e9, the least finite number or -inf, by convention: so does what is this or less (-10000 rounded to
# bfloat16 included), and a row of such values alone has no key, where softmax would give the keys that it hides equal shares.
HIDDEN_BELOW = -9000.0


def tanhmax(
    scores: Tensor, keep: Tensor | None = None, *, dim: int = -1, polarity: float | Tensor = 1.0, additive_mask: Tensor | None = None
) -> Tensor:
    r"""Signed coefficients :math:`\sinh(a_i) / \sum_j \cosh(a_j)` over one dimension (Huang et al. 2024, eq. 3).

    Args:
        scores: any shape, any floating dtype; half precision is computed in float32 and rounded once, at the end.
        keep: boolean, broadcasts to `scores`; True takes part. None keeps all.
        dim: the dimension that holds the keys.
        polarity: a number in [0, 1], or a tensor that broadcasts to `scores` (non-negative; differentiable, where the one-sided
            derivative is taken at 0).
        additive_mask: floating point, broadcasts to `scores`; multiplies a key's share by its exponential, as under softmax.
            Differentiable.

    Returns:
        Weights of the shape and dtype of `scores`, differentiable any number of times.

    Raises:
        TypeError: scores or `additive_mask` are not floating point, or `keep` is not boolean.
        ValueError: a polarity number outside [0, 1], or shapes that do not broadcast.
    """
    if not scores.is_floating_point():
        raise TypeError(f"scores must be floating point, but are {scores.dtype}; convert them, for example with .float()")
    if keep is not None:
        check_keep(keep, scores.shape, "the scores")
    if additive_mask is not None:
        check_added("additive_mask", additive_mask, scores.shape, "the scores")
        seen = ~hides(additive_mask)
        keep = seen if keep is None else keep & seen
    exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
    polarity = check_polarity(polarity)
    if not isinstance(polarity, Tensor):
        polarity = exact.new_tensor(polarity)
    return _map(exact, keep, dim, polarity.to(exact.dtype), additive_mask).to(scores.dtype)


def _map(scores: Tensor, keep: Tensor | None, dim: int, polarity: Tensor, additive_mask: Tensor | None) -> Tensor:
    if scores.size(dim) == 0:
        return scores.clone() if additive_mask is None else scores + additive_mask.to(scores.dtype)  # which keeps its gradient, of nothing
    if keep is not None:
        scores = scores.masked_fill(~keep, 0.0)
    limit = torch.finfo(scores.dtype).max / 4
    scores = scores.clamp(-limit, limit)
    log_p = log_polarity(polarity)

    highest, lowest = scores.detach(), -scores.detach() + log_p.detach()
    shift = torch.maximum(highest, lowest)
    level = None
    if additive_mask is not None and keep is not None:
        level = torch.where(keep, additive_mask.to(scores.dtype), 0.0)
        shift = shift + level.detach()
    if keep is not None:
        shift = shift.masked_fill(~keep, -limit)
    shift = shift.amax(dim, keepdim=True)

    level = -shift if level is None else level - shift
    positive, negative = level + scores, level - scores
    if keep is not None:
        positive, negative = positive.masked_fill(~keep, -math.inf), negative.masked_fill(~keep, -math.inf)
    positive = torch.exp(positive)
    # The second form is the first one where polarity is 0, with its derivative; 80 keeps that derivative finite in float32.
    negative = torch.where(polarity > 0, torch.exp(negative + log_p), polarity * torch.exp(negative.clamp(max=80.0)))
    total = (positive + negative).sum(dim, keepdim=True)
    total = total.masked_fill(total == 0, 1.0)
    # Near 1, tanh keeps the digits that the difference loses around 0; below, the difference has the better derivative.
    signed = torch.tanh(scores - 0.5 * log_p) * (positive + negative)
    return torch.where(polarity > 0.5, signed, positive - negative) / total


def log_polarity(polarity: Tensor) -> Tensor:
    """The logarithm of a polarity, -inf at 0 with gradient 0 there (where the map is softmax and stays softmax)."""
    positive = polarity > 0
    return torch.where(positive, torch.log(torch.where(positive, polarity, 1.0)), -math.inf)


def check_polarity(polarity: float | Tensor) -> float | Tensor:
    """The polarity, if it is a number in [0, 1] or a floating-point tensor (whose values are not read).

    Raises:
        TypeError: neither a number nor a floating-point tensor.
        ValueError: a number outside [0, 1].
    """
    if isinstance(polarity, Tensor):
        if not polarity.is_floating_point():
            raise TypeError(f"a polarity tensor must be floating point, but is {polarity.dtype}")
        return polarity
    if isinstance(polarity, bool) or not isinstance(polarity, int | float):
        raise TypeError(f"polarity must be a number in [0, 1] or a tensor, but is {polarity!r}")
    if not 0.0 <= polarity <= 1.0:
        raise ValueError(f"polarity must be in [0, 1] (0 is softmax, 1 is TanhMax), but is {polarity}")
    return float(polarity)


def check_keep(keep: Tensor, shape: torch.Size | tuple[int, ...], what: str) -> None:
    """Refuse a mask that is not boolean or does not broadcast to `shape`.

    Raises:
        TypeError: `keep` is not boolean.
        ValueError: `keep` does not broadcast.
    """
    if keep.dtype != torch.bool:
        raise TypeError(
            f"keep must be boolean (True takes part), but is {keep.dtype}; a 0/1 mask needs .bool(), and an additive mask goes to "
            "`additive_mask`"
        )
    _check_broadcasts("keep", keep, shape, what)


def check_added(name: str, added: Tensor, shape: torch.Size | tuple[int, ...], what: str) -> None:
    """Refuse what is to be added (`bias`, `additive_mask`) if it is not floating point or does not broadcast to `shape`.

    Raises:
        TypeError: it is not floating point.
        ValueError: it does not broadcast.
    """
    if not added.is_floating_point():
        raise TypeError(f"{name} must be floating point, but is {added.dtype}; a boolean mask goes to `keep`")
    _check_broadcasts(name, added, shape, what)


def _check_broadcasts(name: str, tensor: Tensor, shape: torch.Size | tuple[int, ...], what: str) -> None:
    padded = (1,) * (len(shape) - tensor.dim()) + tuple(tensor.shape)
    if tensor.dim() > len(shape) or any(have not in (1, want) for have, want in zip(padded, shape, strict=True)):
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} does not broadcast to {what} of shape {tuple(shape)}")


def hides(additive_mask: Tensor) -> Tensor:
    """True where an additive mask hides a key outright; NaN hides nothing, and propagates."""
    return additive_mask <= HIDDEN_BELOW


# hf_tanhmax/settings.py
"""What a TanhMax model is set to: how signed it is, in which layers, in which heads.

One frozen, checked object. A TanhMax configuration holds the same four values as `tanhmax_polarity`, `tanhmax_layers`,
`tanhmax_heads` and `tanhmax_score_bias`, so that they are written to `config.json` and read back from there.
"""


LEARNED: Literal["learned"] = "learned"


@dataclass(frozen=True)
class TanhMaxSettings:
    """How attention weights are signed.

    Attributes:
        polarity: a number in [0, 1] (0 is softmax, 1 is TanhMax), or `"learned"`: one score bias c per head is a parameter of the
            attention module, which computes TanhMax(a + c), that is polarity exp(-2c).
        layers: indices of the attention modules, in the model's order, that compute TanhMax; the others stay softmax. None is all.
        heads: indices of the heads, in each of those layers, that compute TanhMax; the others stay softmax. None is all.
        score_bias: where c starts if polarity is `"learned"`; 3 is softmax to about 1e-3.

    Raises:
        TypeError, ValueError: a value that is not one of these, with the value in the message.
    """

    polarity: float | Literal["learned"] = 1.0
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    score_bias: float = 3.0

    def __post_init__(self) -> None:
        if isinstance(self.polarity, str):
            if self.polarity != LEARNED:
                raise ValueError(f'polarity must be a number in [0, 1] or "learned", but is {self.polarity!r}')
        else:
            object.__setattr__(self, "polarity", check_polarity(self.polarity))
        for name in ("layers", "heads"):
            object.__setattr__(self, name, _indices(name, getattr(self, name)))
        if isinstance(self.score_bias, bool) or not isinstance(self.score_bias, int | float):
            raise TypeError(f"score_bias must be a number, but is {self.score_bias!r}")
        if not abs(self.score_bias) <= 40:
            raise ValueError(f"score_bias must be between -40 and 40, but is {self.score_bias}")
        object.__setattr__(self, "score_bias", float(self.score_bias))

    @property
    def learned(self) -> bool:
        """Whether every head learns its own score bias."""
        return self.polarity == LEARNED


def _indices(name: str, value: Iterable[int] | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of indices or None, but is {value!r}")
    found = tuple(value)
    for index in found:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"{name} must hold whole numbers, but holds {index!r}")
        if index < 0:
            raise ValueError(f"{name} must hold indices counted from 0, but holds {index}")
    if not found:
        raise ValueError(f"{name} must name at least one index; leave it None for all")
    if len(set(found)) != len(found):
        raise ValueError(f"{name} names an index twice: {list(found)}")
    return tuple(sorted(found))


# hf_tanhmax/visibility.py
r"""Which keys a query may see: causality, windows, packed sequences and boolean masks as one object that can be asked in tiles.

With query position :math:`i` (counted from 0, plus `offset`) and key position :math:`j`, a key is visible if all of these hold:

* `causal`: :math:`j \le i`; with a `window` :math:`w`, also :math:`j > i - w`;
* without `causal`, a window is two-sided: :math:`|i - j| < w`;
* `segments`: query and key belong to the same packed sequence;
* `keep`: the mask, which broadcasts to `[batch, heads, queries, keys]`, is True.

`offset` is 0 if the first query sits at the first key (upper-left alignment: `scaled_dot_product_attention`, and a prefill into an
empty static cache), and keys - queries if the last query sits at the last key (lower-right: a chunk appended to a cache).
"""


@dataclass(frozen=True)
class Visibility:
    """The mask of one attention call, never larger than the tile that is asked for.

    Attributes:
        queries, keys: lengths.
        causal: whether later keys are hidden.
        offset: position of the first query among the keys.
        window: how many keys a query sees on one side, its own included; None is all.
        keep: boolean, 4-dimensional, broadcasts to `[batch, heads, queries, keys]`.
        segments: int64 `[keys]`, the packed sequence of each position, ascending (queries and keys then have the same length).
    """

    queries: int
    keys: int
    causal: bool = False
    offset: int = 0
    window: int | None = None
    keep: Tensor | None = None
    segments: Tensor | None = None

    def key_range(self, start: int, stop: int) -> tuple[int, int]:
        """The keys that queries `start` to `stop` can see at most, as a half-open range (`keep` is not read)."""
        low, high = 0, self.keys
        if self.causal:
            high = min(high, stop + self.offset)
        if self.window is not None:
            low = max(low, start + self.offset - self.window + 1)
            high = min(high, stop + self.offset + self.window - 1)
        if self.segments is not None:
            first, last = self.segments[start], self.segments[stop - 1]
            low = max(low, int(torch.searchsorted(self.segments, first)))
            high = min(high, int(torch.searchsorted(self.segments, last, right=True)))
        return min(low, self.keys), max(high, min(low, self.keys))

    def row_ranges(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The keys that each query can see at most, as half-open ranges: int64 `[queries]` each, first and last (`keep` is not read)."""
        position = torch.arange(self.queries, device=device) + self.offset
        low, high = torch.zeros_like(position), torch.full_like(position, self.keys)
        if self.causal:
            high = torch.minimum(high, position + 1)
        if self.window is not None:
            low = torch.maximum(low, position - self.window + 1)
            high = torch.minimum(high, position + self.window)
        if self.segments is not None:
            segments = self.segments.contiguous()
            low = torch.maximum(low, torch.searchsorted(segments, segments))
            high = torch.minimum(high, torch.searchsorted(segments, segments, right=True))
        return low, torch.maximum(low, high)

    def hidden_from(self, start: int, low: int) -> int:
        """The first key that tiles of queries from `start` on must mask, if only causality hides keys; else `low`."""
        plain = self.causal and self.window is None and self.segments is None and self.keep is None
        return max(low, start + self.offset + 1) if plain else low

    def tile(
        self, rows: tuple[int, int], columns: tuple[int, int], device: torch.device, batch: slice | None = None, heads: slice | None = None
    ) -> Tensor | None:
        """The mask of some queries and keys: boolean, broadcasts to `[batch, heads, rows, columns]`; None if all are visible."""
        seen = self._band(torch.arange(*rows, device=device), torch.arange(*columns, device=device))
        if self.segments is not None:
            same = self.segments[slice(*rows), None] == self.segments[None, slice(*columns)]
            seen = same if seen is None else seen & same
        if self.keep is not None:
            part = self.keep
            for dim, wanted in enumerate((batch, heads, slice(*rows), slice(*columns))):
                if wanted is not None and part.shape[dim] != 1:
                    part = part[(slice(None),) * dim + (wanted,)]
            seen = part if seen is None else seen & part
        return seen

    def _band(self, queries: Tensor, keys: Tensor) -> Tensor | None:
        """What causality and the window leave of some queries and keys, given by their numbers; None if that is all."""
        if not self.causal and self.window is None:
            return None
        i, j = queries[:, None] + self.offset, keys[None, :]
        seen = j <= i if self.causal else None
        if self.window is None:
            return seen
        inside = (i - j < self.window) & (j - i < self.window)
        return inside if seen is None else seen & inside

    def full(self, device: torch.device) -> Tensor | None:
        """The mask of all queries and keys, as `tile` gives it. Nothing is cut, so to a compiler lengths may be symbols."""
        seen = self._band(torch.arange(self.queries, device=device), torch.arange(self.keys, device=device))
        if self.segments is not None:
            same = self.segments[:, None] == self.segments[None, :]
            seen = same if seen is None else seen & same
        if self.keep is None:
            return seen
        return self.keep if seen is None else seen & self.keep


def packed_segments(cu_seqlens: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The packed sequence of each position, int64 `[keys]`, from the bounds of a call, if they fit its tensors.

    Raises:
        ValueError, TypeError: they do not; the sentence says what they are.
    """
    length = key.shape[2]
    if query.shape[0] != 1 or query.shape[2] != length:
        raise ValueError(
            "cu_seqlens packs sequences of queries and keys alike into a batch of one, but query and key have shapes "
            f"{tuple(query.shape)} and {tuple(key.shape)}"
        )
    if cu_seqlens.dim() != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens must be int32 or int64 [sequences + 1], but is {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}")
    if cu_seqlens.device.type == "cpu" and not torch.compiler.is_compiling():
        bounds = cu_seqlens.tolist()
        if bounds[:1] != [0] or bounds[-1] != length or bounds != sorted(bounds):
            raise ValueError(f"cu_seqlens must ascend from 0 to the length {length}, but is {bounds}")
    positions = torch.arange(length, device=key.device)
    return torch.searchsorted(cu_seqlens.to(key.device, torch.int64), positions, right=True)


# hf_tanhmax/paging.py
"""Keys and values that lie in blocks anywhere in a cache, and the table that says where: what serving hands over instead of tensors.

For batch entry :math:`b`, key number :math:`j` is `key[block_table[b, j // size], :, j % size]`, where `size` is the number of keys in a
block. In a flat table, blocks hold one key each, and the keys of all entries follow each other.
"""


@dataclass(frozen=True)
class Paging:
    """Where the keys of each batch entry lie.

    Attributes:
        block_table: int32 or int64, `[batch, blocks]` or `[keys of all entries]`.
        bounds: int32 or int64 `[batch + 1]`; entry b has `bounds[b + 1] - bounds[b]` keys.
    """

    block_table: Tensor
    bounds: Tensor

    def positions(self, size: int) -> tuple[Tensor, Tensor]:
        """Of every key, up to the longest entry: the row of the blocks laid end to end, and whether there is one; both `[batch, keys]`."""
        lengths = self.bounds.diff().to(torch.int64)
        each = torch.arange(int(lengths.max()) if lengths.numel() else 0, device=self.bounds.device)
        exists = each < lengths[:, None]
        if self.block_table.dim() == 1:
            index = (self.bounds[:-1, None] + each).where(exists, 0)
            return self.block_table[index].to(torch.int64) * size, exists
        blocks = self.block_table[:, each // size].to(torch.int64)
        return (blocks * size + each % size).where(exists, 0), exists

    def gathered(
        self, query: Tensor, key: Tensor, value: Tensor, visibility: Visibility
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Visibility]:
        """The call with dense copies of its keys and values, `[batch, kv_heads, keys, dim]`, and a mask for which of them there are."""
        rows, exists = self.positions(key.shape[2])
        missing = ~exists[:, None, :, None]  # a block that was never written may hold anything
        key, value = (tensor.transpose(1, 2).flatten(0, 1)[rows].transpose(1, 2).masked_fill(missing, 0.0) for tensor in (key, value))
        keep = exists[:, None, None]
        if visibility.causal:
            last = self.bounds.diff()[:, None, None, None] - query.shape[2]
            back = torch.arange(query.shape[2], device=query.device)[:, None] + last - torch.arange(rows.shape[1], device=query.device)
            keep = keep & (back >= 0) & (back < (visibility.window or rows.shape[1] + 1))
        return (query, key, value), Visibility(query.shape[2], rows.shape[1], keep=keep)


def checked_paging(block_table: Tensor, bounds: Tensor | None, query: Tensor, key: Tensor) -> Paging:
    """The table and the bounds of a call, if they fit its tensors.

    Raises:
        ValueError, TypeError: they do not; the sentence names what.
    """
    if bounds is None:
        raise ValueError("block_table needs cu_seqlens, [batch + 1], which say where the keys of each batch entry begin")
    for name, tensor in (("block_table", block_table), ("cu_seqlens", bounds)):
        if tensor.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{name} must be int32 or int64, but is {tensor.dtype}")
        if tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device}, but query is on {query.device}; move one of them")
    batch, size = query.shape[0], key.shape[2]
    if bounds.shape != (batch + 1,):
        raise ValueError(f"with a block_table cu_seqlens must be [batch + 1] = [{batch + 1}], but has shape {tuple(bounds.shape)}")
    if block_table.dim() not in (1, 2) or (block_table.dim() == 2 and block_table.shape[0] != batch):
        raise ValueError(f"block_table must be [batch, blocks] with a batch of {batch}, or flat, but has shape {tuple(block_table.shape)}")
    if block_table.dim() == 1 and size != 1:
        raise ValueError(f"a flat block_table counts blocks of one key, but key has blocks of {size}; give it as [batch, blocks]")
    return Paging(block_table, bounds)


# hf_tanhmax/reference.py
r"""TanhMax attention in plain PyTorch, with its weights: the definition that every other implementation is measured against.

.. math:: O = \mathrm{dropout}(W) V, \qquad W = \mathrm{tanhmax}(s(\alpha\, Q K^\top) + B, M), \qquad s(x) = c \tanh(x / c)

with scale :math:`\alpha`, softcap :math:`c` (absent: :math:`s(x) = x`), bias :math:`B` and additive mask :math:`M`. Memory grows with
queries times keys.
"""


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visibility: Visibility,
    *,
    bias: Tensor | None = None,
    additive_mask: Tensor | None = None,
    scale: float,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    polarity: float | Tensor = 1.0,
    return_weights: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Attention output and weights, differentiable any number of times.

    Args:
        query: `[batch, heads, queries, head_dim]`.
        key: `[batch, kv_heads, keys, head_dim]`; `kv_heads` divides `heads`, and consecutive query heads share a key head.
        value: `[batch, kv_heads, keys, value_dim]`.
        visibility: which keys a query sees.
        bias: broadcasts to `[batch, heads, queries, keys]`, added after the softcap.
        additive_mask: broadcasts likewise; multiplies the share of a key by its exponential.
        scale: multiplies the products of query and key.
        softcap: bound of the scores, before bias and mask.
        dropout_p: share of the weights set to 0, the others scaled by 1 / (1 - dropout_p).
        polarity: a number, or `[heads]`.
        return_weights: whether weights are wanted. If so, the gradient that goes through them is rounded to their dtype, as they are.

    Returns:
        Output `[batch, heads, queries, value_dim]` and weights `[batch, heads, queries, keys]` as they met the values (after
        dropout), in the dtype of the query, or None. Scores and weights are computed in float32, or float64 for float64.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    groups = query.shape[1] // key.shape[1]
    scores = torch.matmul(query.to(exact), _repeat(key, groups).to(exact).transpose(-1, -2)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias.to(exact)
    if isinstance(polarity, Tensor):
        polarity = polarity.view(1, -1, 1, 1)
    weights = tanhmax(scores, visibility.full(query.device), polarity=polarity, additive_mask=additive_mask)
    if dropout_p > 0:
        weights = torch.nn.functional.dropout(weights, dropout_p)
    returned = None
    if return_weights:
        returned, weights = _rounded(weights, query.dtype)
    output = torch.matmul(weights, _repeat(value, groups).to(exact))
    return output.to(query.dtype), returned


def _rounded(weights: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights to be returned, in their dtype, and those to be used: the exact values, whose gradient goes through the returned ones."""
    returned = weights.to(dtype)
    if returned.dtype == weights.dtype or not weights.requires_grad:
        return returned, weights
    widened = returned.to(weights.dtype)
    return returned, widened + (weights - widened).detach()  # no digit is lost: the two are too close to each other


def _repeat(tensor: Tensor, groups: int) -> Tensor:
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)


# hf_tanhmax/stock.py
r"""Stock softmax kernels of torch that hand out their log-sum-exp, each behind the same two functions.

`forward` computes, of the scores :math:`S = \alpha\, Q K^\top` plus mask, the log-sum-exp :math:`L` and the output :math:`O = e^{S - L} V`.
`backward` takes an output and a log-sum-exp, which need not be its own: with :math:`P = e^{S - L}` and :math:`\delta_i = dO_i \cdot O_i`

.. math:: dV = P^\top dO, \quad dS_{ij} = P_{ij} (dO_i \cdot V_j - \delta_i), \quad dQ = \alpha\, dS\, K, \quad dK = \alpha\, dS^\top Q.

A row whose :math:`L` is inf has :math:`P = 0` and gives no gradient.
"""


# None of these operators is public. They are called here and nowhere else, with the arguments that torch 2.11 and 2.13 have; their names
# are pinned in tests/test_stock.py, which is the first to fail when torch changes one.
aten = torch.ops.aten

Pattern = Literal["full", "causal", "mask"]
"""What is visible: every key; keys up to the query's own position, counted from the upper left; or what an additive mask says."""

State = tuple[Tensor, ...]
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class StockKernel:
    """One kernel and what it accepts.

    Attributes:
        forward: (query, key, value, mask, causal, scale) -> (output, log-sum-exp, state).
        backward: (grad_output, query, key, value, mask, output, log-sum-exp, state, causal, scale) -> (dq, dk, dv).
        device: the type of device it runs on.
        dtypes: of query, key and value, which have one dtype.
        multiple: the head size must be a multiple of it.
        widest: the largest head size; None is any.
        masks: whether it takes a mask; without, it knows causality only for as many queries as keys.
        fewest_keys: the smallest number of keys.
        exact: whether half precision is to be raised to float32 first, because the kernel is slower in it and rounds more.

    Query, output and their gradients are `[batch, heads, queries, width]`, key and value `[batch, kv_heads, keys, width]` with `kv_heads`
    dividing `heads`, the mask is additive, in the dtype of the query, and broadcasts to `[batch, heads, queries, keys]`; the log-sum-exp is
    `[batch, heads, queries]` in float32, or float64 for float64. The last dimension of query, key and value is dense. The state is what
    `backward` wants back of `forward`; it holds the unused random state, so any call's will do.
    """

    forward: Callable[[Tensor, Tensor, Tensor, Tensor | None, bool, float], tuple[Tensor, Tensor, State]]
    backward: Callable[
        [Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor, State, bool, float],
        tuple[Tensor, Tensor, Tensor],
    ]
    device: str
    dtypes: tuple[torch.dtype, ...]
    multiple: int
    widest: int | None = None
    masks: bool = True
    fewest_keys: int = 1
    exact: bool = False


def refusal(name: str, query: Tensor, key: Tensor, value: Tensor, pattern: Pattern) -> str | None:
    """Why a kernel cannot run a call, as the end of a sentence; None if it can. Tensors as they come to `composed_attention`."""
    kernel = KERNELS[name]
    if query.device.type != kernel.device:
        return f"runs on {kernel.device} alone, but the tensors are on {query.device}"
    if query.dtype not in kernel.dtypes:
        return f"takes {', '.join(str(dtype) for dtype in kernel.dtypes)}, but the tensors are {query.dtype}"
    width = max(query.shape[-1], value.shape[-1])
    if kernel.widest is not None and width > kernel.widest:
        return f"takes heads of at most {kernel.widest}, but they have {width}"
    if pattern == "mask" and not kernel.masks:
        return "takes neither mask nor bias, but the call needs one"
    if pattern == "causal" and not kernel.masks and query.shape[2] != key.shape[2]:
        return f"is causal for as many queries as keys, but there are {query.shape[2]} and {key.shape[2]}"
    if key.shape[2] < kernel.fewest_keys:
        return f"wants at least {kernel.fewest_keys} keys, but there is {key.shape[2]}"
    return _hardware_refusal(name, query)


def _hardware_refusal(name: str, query: Tensor) -> str | None:
    if query.device.type != "cuda":
        return None
    if torch.version.hip is not None:
        return "is wired for CUDA, but this torch is built for ROCm"
    if name == "efficient" and query.dtype != torch.bfloat16:
        return None
    # Without a GPU the tensors are fake, and so is what they run on.
    if torch.cuda.is_available() and torch.cuda.get_device_capability(query.device) < (8, 0):
        return f"wants compute capability 8.0 for {query.dtype}, but {query.device} is older"
    return None


def padded(tensor: Tensor, width: int) -> Tensor:
    """A tensor whose last dimension is dense and `width` long, zeros behind its own; itself if it is that. Differentiable."""
    if tensor.shape[-1] < width:
        tensor = pad(tensor, (0, width - tensor.shape[-1]))  # which keeps the order of strides, whatever it is
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _cpu_forward(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor, State]:
    mask = None if mask is None else mask.expand(*query.shape[:3], key.shape[2])
    output, lse = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, attn_mask=mask, scale=scale)
    return output, lse, ()


def _cpu_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    output: Tensor,
    lse: Tensor,
    _state: State,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    mask = None if mask is None else mask.expand(*query.shape[:3], key.shape[2])
    backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
    return backward(grad_output, query, key, value, output, lse, 0.0, causal, attn_mask=mask, scale=scale)


def _flash_forward(
    query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor, State]:
    found = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, False, scale=scale)
    return found[0], found[1], found[6:8]


def _flash_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    output: Tensor,
    lse: Tensor,
    state: State,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    lengths = (None, None, query.shape[2], key.shape[2])
    backward = aten._scaled_dot_product_flash_attention_backward
    return backward(grad_output, query, key, value, output, lse.contiguous(), *lengths, 0.0, causal, *state, scale=scale)


def _cudnn_forward(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor, State]:
    mask = _dense(mask, query, key)
    found = aten._scaled_dot_product_cudnn_attention(query, key, value, mask, True, 0.0, causal, False, scale=scale)
    return found[0], found[1].squeeze(-1), found[6:8]


def _cudnn_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    output: Tensor,
    lse: Tensor,
    state: State,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    # The compiled graph is looked up by the strides of the query, but runs on those of output and gradient: they must go with it.
    grad_output, output = _laid_out_like(query, grad_output), _laid_out_like(query, output)
    mask, lse = _dense(mask, query, key), lse.unsqueeze(-1).contiguous()
    lengths = (None, None, query.shape[2], key.shape[2])
    backward = aten._scaled_dot_product_cudnn_attention_backward
    return backward(grad_output, query, key, value, output, lse, *state, mask, *lengths, 0.0, causal, scale=scale)


def _dense(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    return None if mask is None else mask.expand(query.shape[0], -1, query.shape[2], key.shape[2]).contiguous()


def _laid_out_like(pattern: Tensor, tensor: Tensor) -> Tensor:
    like = torch.empty_like(pattern)
    return tensor if tensor.stride() == like.stride() else like.copy_(tensor)


def _efficient_forward(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor, State]:
    key, value, mask = _per_head(key, query), _per_head(value, query), _aligned(mask, query, key)
    found = aten._scaled_dot_product_efficient_attention(query, key, value, mask, True, 0.0, causal, scale=scale)
    return found[0], found[1][..., : query.shape[2]], found[2:4]


def _efficient_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    output: Tensor,
    lse: Tensor,
    state: State,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    kv_heads, mask = key.shape[1], _aligned(mask, query, key)
    key, value = _per_head(key, query), _per_head(value, query)
    output = output.transpose(1, 2).contiguous().transpose(1, 2)  # the layout that it assumes without a check
    lse = pad(lse, (0, -lse.shape[-1] % 32), value=math.inf)  # it reads whole blocks
    wanted = [True, True, True, False]
    backward = aten._scaled_dot_product_efficient_attention_backward
    dq, dk, dv, _ = backward(grad_output, query, key, value, mask, output, lse, *state, 0.0, wanted, causal, scale=scale)
    return dq, _per_group(dk, kv_heads), _per_group(dv, kv_heads)


def _per_head(tensor: Tensor, query: Tensor) -> Tensor:
    groups = query.shape[1] // tensor.shape[1]
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)


def _per_group(gradient: Tensor, kv_heads: int) -> Tensor:
    return gradient if gradient.shape[1] == kv_heads else gradient.unflatten(1, (kv_heads, -1)).sum(2)


def _aligned(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """The mask at full size, with rows that start at multiples of 8 elements and are dense."""
    if mask is None:
        return None
    keys = key.shape[2]
    mask = mask.expand(-1, -1, -1, keys)
    if keys % 8 or not mask.is_contiguous():
        mask = pad(mask, (0, -keys % 8)).contiguous()[..., :keys]
    return mask.expand(*query.shape[:3], keys)


KERNELS: dict[str, StockKernel] = {
    "cpu": StockKernel(_cpu_forward, _cpu_backward, "cpu", (*HALF, torch.float32, torch.float64), multiple=1, exact=True),
    "flash": StockKernel(_flash_forward, _flash_backward, "cuda", HALF, multiple=8, widest=256, masks=False),
    "cudnn": StockKernel(_cudnn_forward, _cudnn_backward, "cuda", HALF, multiple=8, widest=256, fewest_keys=2),
    "efficient": StockKernel(_efficient_forward, _efficient_backward, "cuda", (*HALF, torch.float32), multiple=8),
}


# hf_tanhmax/composed.py
r"""TanhMax attention composed of stock softmax kernels, by two identities that hold exactly for outputs and gradients.

(a) **Doubled keys**: softmax attention over keys :math:`[K; -K]` and values :math:`[V; -V]`, with :math:`\log p` added to the scores of
    the second half. A bias changes its sign in the second half; the mask, boolean or additive, is repeated.

(b) **Two calls**: with output and log-sum-exp of softmax attention for :math:`q` and for :math:`-q` (:math:`L_-` shifted by
    :math:`\log p`), :math:`O = \sigma(L_+ - L_-)\,O_+ - \sigma(L_- - L_+)\,O_-` and :math:`L = \log(e^{L_+} + e^{L_-})`. A softmax
    kernel's backward pass that is given the joint O and L computes one half of the exact gradient, so two calls with
    :math:`(dO, q, O, L)` and :math:`(-dO, -q, -O, L - \log p)` compute it all.

(b) runs over the kernels of `stock`, in memory linear in the length unless there is a mask: on the CPU its flash kernel; on CUDA the flash
kernel for 16 bits without mask and bias, else the efficient one. (a) runs on other devices, in float64 on CUDA, on GPUs older than the
kernels ask for, and where a bias, an additive mask or a polarity wants a gradient.

Both lose digits where scores are near 0, as the two halves cancel; in bfloat16 the loss is visible (1.2 % at a score deviation of 0.1), so
these are the fallback and the oracle, not the accurate path. The CPU computes half precision in float32. The kernels on CUDA do not: they
round each of the two outputs to the dtype of the query before they are joined in float32, and each of the two gradients before their sum.
"""


AUTOMATIC_KERNELS = ("cpu", "flash", "efficient")
"""The kernels that are chosen unasked, the first that can run a call."""


def composed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visibility: Visibility,
    *,
    bias: Tensor | None = None,
    additive_mask: Tensor | None = None,
    scale: float,
    polarity: Tensor,
    kernel: str | None = None,
) -> Tensor:
    """Attention output `[batch, heads, queries, value_dim]`; arguments as in `reference_attention`, polarity `[heads]`.

    Dropout and softcap are not to be had from stock kernels; the caller refuses them. Neither queries nor keys may be none.

    Args:
        kernel: the stock kernel that (b) runs over: "cpu", "flash", "cudnn" or "efficient"; it runs or raises. None chooses.

    Raises:
        ValueError: an unknown kernel.
        NotImplementedError: a named kernel that cannot run the call; the sentence says why.
    """
    if scale <= 0:  # the CPU's kernel multiplies hidden scores, which are -inf, by the scale
        query, scale = (-query, -scale) if scale else (query * 0.0, 1.0)
    log_p = log_polarity(polarity)
    added = Added(bias, additive_mask)
    pattern = _pattern(visibility, added)
    wants = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in (polarity, *added))
    if kernel is not None:
        _check_kernel(kernel, query, key, value, pattern, wants)
        return _two_calls(query, key, value, visibility, added, scale, log_p, pattern, kernel)
    for name in () if wants else AUTOMATIC_KERNELS:
        if refusal(name, query, key, value, pattern) is None:
            return _two_calls(query, key, value, visibility, added, scale, log_p, pattern, name)
    return doubled_keys(query, key, value, visibility, added=added, scale=scale, log_polarity=log_p)


class Added(NamedTuple):
    """What is added to the scores of both halves: a bias with a change of sign, an additive mask without."""

    bias: Tensor | None = None
    additive_mask: Tensor | None = None

    def halves(self, query: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sums for the scores and for their negatives, in the dtype of the query; of the mask, what is not `seen` counts as 0.

        The largest number that a row of the mask shows is taken off before anything is rounded: it changes no weight.
        """
        exact = torch.promote_types(query.dtype, torch.float32)
        bias = query.new_zeros(1, 1, 1, 1, dtype=exact) if self.bias is None else self.bias.to(exact)
        if self.additive_mask is None:
            return bias.to(query.dtype), -bias.to(query.dtype)
        mask = self.additive_mask.to(exact)
        largest = mask.detach() if seen is None else torch.where(seen, mask.detach(), -math.inf)
        largest = largest.amax(-1, keepdim=True)
        mask = mask - largest.masked_fill(largest == -math.inf, 0.0)
        if seen is not None:
            mask = torch.where(seen, mask, 0.0)
        return (mask + bias).to(query.dtype), (mask - bias).to(query.dtype)

    def seen(self, visibility: Visibility, device: torch.device) -> Tensor | None:
        """The mask of all queries and keys, with what the additive mask hides: 4-dimensional; None if all are visible."""
        keep = visibility.full(device)
        if self.additive_mask is not None:
            open_keys = ~hides(self.additive_mask)
            keep = open_keys if keep is None else keep & open_keys
        return None if keep is None else keep[(None,) * (4 - keep.dim())]


def _pattern(visibility: Visibility, added: Added) -> Pattern:
    masks = (*added, visibility.window, visibility.segments, visibility.keep)
    if any(mask is not None for mask in masks):
        return "mask"
    if not visibility.causal or visibility.offset >= visibility.keys - 1:  # the latter: one query behind a cache sees all of it
        return "full"
    return "causal" if visibility.offset == 0 else "mask"


def _check_kernel(kernel: str, query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, wants: bool) -> None:
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; there are {', '.join(KERNELS)}")
    reason = refusal(kernel, query, key, value, pattern)
    if reason is None and wants:
        reason = "has no gradient for bias, additive mask and polarity, but one of them requires it"
    if reason is not None:
        raise NotImplementedError(f"kernel={kernel!r} {reason}; use kernel=None, which takes another way")


def doubled_keys(
    query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, *, added: Added, scale: float, log_polarity: Tensor
) -> Tensor:
    """Identity (a) over `torch.nn.functional.scaled_dot_product_attention`, on any device."""
    groups = query.shape[1] // key.shape[1]
    key, value = (torch.cat([half, -half], dim=2).repeat_interleave(groups, dim=1) for half in (key, value))
    keep = added.seen(visibility, query.device)
    positive, negative = added.halves(query, keep)
    negative = negative + log_polarity.to(query.dtype).view(1, -1, 1, 1)
    shape = torch.broadcast_shapes(positive.shape, negative.shape, () if keep is None else keep.shape)
    shape = (*shape[:3], visibility.keys)
    halves = [half.expand(shape) for half in (positive, negative)]
    if keep is None:
        return scaled_dot_product_attention(query, key, value, torch.cat(halves, dim=-1), scale=scale)
    mask = torch.cat([half.masked_fill(~keep, -math.inf) for half in halves], dim=-1)
    empty = ~keep.any(-1, keepdim=True)
    output = scaled_dot_product_attention(query, key, value, mask.masked_fill(empty, 0.0), scale=scale)
    return output.masked_fill(empty, 0.0)


def _two_calls(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visibility: Visibility,
    added: Added,
    scale: float,
    log_p: Tensor,
    pattern: Pattern,
    name: str,
) -> Tensor:
    kernel, dtype, value_dim = KERNELS[name], query.dtype, value.shape[-1]
    if kernel.exact:
        query, key, value = (tensor.to(torch.promote_types(dtype, torch.float32)) for tensor in (query, key, value))
    width = max(query.shape[-1], value_dim)
    width += -width % kernel.multiple
    query, key, value = (padded(tensor, width) for tensor in (query, key, value))
    positive, negative, empty = _masks(visibility, added, query) if pattern == "mask" else (None, None, None)
    output = _TwoCalls.apply(query, key, value, positive, negative, empty, pattern == "causal", scale, log_p, name)
    return output[..., :value_dim].to(dtype)


def _masks(visibility: Visibility, added: Added, query: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Additive masks for q and -q, and True where a row sees no key `[batch or 1, heads or 1, queries or 1]`; such rows are left open."""
    keep = added.seen(visibility, query.device)
    positive, negative = (half.detach() for half in added.halves(query, keep))
    if keep is None:
        return positive, negative, None
    empty = ~keep.any(-1)
    seen = keep | empty[..., None]
    return torch.where(seen, positive, -math.inf), torch.where(seen, negative, -math.inf), empty


class _TwoCalls(torch.autograd.Function):
    """Identity (b) over a stock kernel."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        negative_mask: Tensor | None,
        empty: Tensor | None,
        causal: bool,
        scale: float,
        log_p: Tensor,
        name: str,
    ) -> Tensor:
        """Join the two outputs by their log-sum-exps."""
        positive, plus, state = KERNELS[name].forward(query, key, value, mask, causal, scale)
        negative, minus, _ = KERNELS[name].forward(-query, key, value, negative_mask, causal, scale)
        log_p = log_p.to(plus.dtype).view(1, -1, 1)
        minus = minus + log_p
        lse = torch.logaddexp(plus, minus)
        output = positive * torch.sigmoid(plus - minus)[..., None] - negative * torch.sigmoid(minus - plus)[..., None]
        if empty is not None:
            output, lse = output.masked_fill(empty[..., None], 0.0), lse.masked_fill(empty, math.inf)
        output = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, mask, negative_mask, output, lse, log_p, *state)
        ctx.causal, ctx.scale, ctx.name = causal, scale, name
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Two backward passes that are given the joint output and log-sum-exp."""
        query, key, value, mask, negative_mask, output, lse, log_p, *state = ctx.saved_tensors
        backward, options = KERNELS[ctx.name].backward, (tuple(state), ctx.causal, ctx.scale)
        plus = backward(grad_output, query, key, value, mask, output, lse, *options)
        minus = backward(-grad_output, -query, key, value, negative_mask, -output, lse - log_p, *options)
        return plus[0] - minus[0], plus[1] + minus[1], plus[2] + minus[2], None, None, None, None, None, None, None


# hf_tanhmax/blocked.py
r"""TanhMax attention on the CPU in blocks of rows: exact, linear in memory, float32 inside (float64 for float64).

For one block of queries:

* **plain blocks**, where :math:`|a|` is known to stay below 60: :math:`E = 2^{a \log_2 e}` (the cheaper exponential) and
  :math:`W' = E - p/E`. No maximum is taken and no second exponential: since cosh is at least 1 the sum cannot vanish, and within the bound
  nothing overflows. The bound is the scale times the longest query times the longest key (Cauchy and Schwarz), or the softcap, plus the
  largest bias and the largest log-polarity above 0. Where it is below 1, :math:`W' = 2p\sinh a + (1 - p) E`, which keeps the digits that
  the difference of two numbers near 1 loses;
* **shifted blocks** otherwise: :math:`E = e^{a-m}` and :math:`W' = E - p\,e^{-a-m}` with
  :math:`m = \max_k \max(a_k, \log p - a_k)` over the visible keys. The base stays e: rounding :math:`\log_2 e` would cost digits here.

An additive mask counts as less by its largest visible number of the row, :math:`M`, which changes no weight: so its exponentials
:math:`f = e^{m - M}` are at most 1, and 1 somewhere. Plain blocks multiply E and W' by f, with a bound of 30: what of f underflows, is then
lost against the sum. Shifted blocks have it in the exponent, and in the maximum.

The denominator is :math:`\ell = \sum 2E - W'`, the output :math:`O = W' V / \ell`, and :math:`L = \log \ell` (plus the shift, plus M).
The backward pass recomputes the blocks and uses the closed form :math:`dA = C \circ dP - W \circ D` with :math:`C = 2E - W'` and
:math:`W = W'` over :math:`\ell`, :math:`dP = dO\,V^\top`, :math:`D = \mathrm{rowsum}(W \circ dP)`; for an additive mask
:math:`dM = W \circ dP - C \circ D`; and
:math:`dL/d\log p = -\sum_j n_j (dP_j + D)` with the negative exponentials :math:`n = E - W'` over :math:`\ell`.

A query without a visible key gets output 0, L = +inf and zero gradients.
"""


LOG2_OF_E = math.log2(math.e)
PLAIN_LIMIT, SMALL_LIMIT = 60.0, 1.0
PLAIN_LIMIT_FADED = 30.0
TILE = 1 << 19
ROWS = 128


@dataclass(frozen=True)
class Block:
    """One rectangle of scores: some batch entries, some key heads with their query heads, some queries, a range of keys."""

    batch: slice
    kv_heads: slice
    heads: slice
    rows: tuple[int, int]
    columns: tuple[int, int]
    first_hidden: int


@dataclass
class BlockedProblem:
    """One attention call, cut into blocks. Forward and backward walk the same blocks in the same order.

    Shapes are those of `tanhmax_attention`; `log_polarity` is `[heads]`; `seed` is an int64 scalar, the start of the dropout masks.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    log_polarity: Tensor
    visibility: Visibility
    bias: Tensor | None
    additive_mask: Tensor | None
    scale: float
    softcap: float | None
    dropout_p: float
    seed: Tensor | None

    def __post_init__(self) -> None:
        self.exact = torch.promote_types(self.query.dtype, torch.float32)
        self.query, self.key, self.value = (tensor.to(self.exact) for tensor in (self.query, self.key, self.value))
        self.batch, self.heads, self.queries, _ = self.query.shape
        self.kv_heads, self.keys = self.key.shape[1:3]
        self.groups = self.heads // self.kv_heads
        self.log_polarity = self.log_polarity.to(self.exact)
        self.generator = torch.Generator()
        if self.seed is not None:
            self.generator.manual_seed(int(self.seed))

    def blocks(self) -> Iterator[Block]:
        """Rectangles of about `TILE` scores: whole batch entries where they are small, else some heads of one entry."""
        rows = max(1, min(self.queries, max(16, ROWS // self.groups)))
        area = max(1, rows * self.groups * self.keys)
        many_heads = max(1, min(self.kv_heads, TILE // area))
        many_entries = max(1, TILE // (area * self.kv_heads)) if many_heads == self.kv_heads else 1
        for entry in range(0, self.batch, many_entries):
            for head in range(0, self.kv_heads, many_heads):
                kv = slice(head, min(head + many_heads, self.kv_heads))
                for start in range(0, self.queries, rows):
                    stop = min(start + rows, self.queries)
                    low, high = self.visibility.key_range(start, stop)
                    if low == high:
                        continue
                    yield Block(
                        batch=slice(entry, min(entry + many_entries, self.batch)),
                        kv_heads=kv,
                        heads=slice(kv.start * self.groups, kv.stop * self.groups),
                        rows=(start, stop),
                        columns=(low, high),
                        first_hidden=low if self.additive_mask is not None else self.visibility.hidden_from(start, low),
                    )

    @cached_property
    def bounds(self) -> Tensor:
        """A bound of |a| for each batch entry and key head: `[batch, kv_heads]`."""
        longest_key = torch.linalg.vector_norm(self.key, dim=-1).amax(-1)
        longest_query = torch.linalg.vector_norm(self.query, dim=-1).amax(-1).unflatten(1, (self.kv_heads, self.groups)).amax(-1)
        bound = longest_key * longest_query * abs(self.scale)
        if self.softcap is not None:
            bound = bound.clamp(max=abs(self.softcap))
        bound = bound + self.log_polarity.amax().clamp(min=0.0)  # a learned polarity may be above 1
        return bound if self.bias is None else bound + self.bias.abs().amax().to(self.exact)

    @cached_property
    def hides_outright(self) -> bool:
        """Whether the additive mask hides any key as a boolean mask does."""
        return self.additive_mask is not None and bool(hides(self.additive_mask).any())

    def plain(self, block: Block) -> bool:
        """Whether no shift is needed in this block."""
        return self.below(block, PLAIN_LIMIT if self.additive_mask is None else PLAIN_LIMIT_FADED)

    def below(self, block: Block, limit: float) -> bool:
        """Whether all scores of a block are below a limit."""
        return bool((self.bounds[block.batch, block.kv_heads] < limit).all())

    def rows_of(self, tensor: Tensor, block: Block) -> Tensor:
        """`[batch, heads, queries, n]` -> the block's `[entries * kv_heads, groups * rows, n]`."""
        part = tensor[block.batch, block.heads, slice(*block.rows)]
        return part.reshape(-1, self.groups * part.shape[2], part.shape[3])

    def columns_of(self, tensor: Tensor, block: Block) -> Tensor:
        """`[batch, kv_heads, keys, n]` -> the block's `[entries * kv_heads, columns, n]`."""
        part = tensor[block.batch, block.kv_heads, slice(*block.columns)]
        return part.flatten(0, 1)

    def by_head(self, tile: Tensor, block: Block) -> Tensor:
        """`[entries * kv_heads, groups * rows, columns]` seen as `[entries, heads, rows, columns]`."""
        entries = block.batch.stop - block.batch.start
        return tile.view(entries, -1, block.rows[1] - block.rows[0], tile.shape[-1])

    def per_head(self, values: Tensor, block: Block) -> Tensor:
        """`[heads]` -> what broadcasts to the block's tiles: `[entries * kv_heads, groups * rows or 1, 1]`."""
        part = values[block.heads]
        entries, rows = block.batch.stop - block.batch.start, block.rows[1] - block.rows[0]
        if self.groups == 1:
            return part.view(-1, 1).repeat(entries, 1).unsqueeze(-1)
        return part.view(-1, self.groups, 1).repeat(entries, 1, rows).reshape(-1, self.groups * rows, 1)

    def scores(self, block: Block, out: Tensor, unit: float) -> Tensor | None:
        """Write `unit` times the block's scores to `out`; with a softcap, return the capped ones over the cap (for the derivative)."""
        query, key = self.rows_of(self.query, block), self.columns_of(self.key, block)
        factor = self.scale * unit if self.softcap is None else self.scale / self.softcap
        torch.baddbmm(out, query, key.transpose(1, 2), beta=0, alpha=factor, out=out)
        capped = None
        if self.softcap is not None:
            capped = torch.tanh(out)
            torch.mul(capped, self.softcap * unit, out=out)
        if self.bias is not None:
            self.by_head(out, block).add_(self.part_of(self.bias, block).to(self.exact), alpha=unit)
        return capped

    def part_of(self, tensor: Tensor, block: Block) -> Tensor:
        """The block's part of a 4-dimensional tensor that broadcasts to `[batch, heads, queries, keys]`, as a view."""
        for dim, wanted in enumerate((block.batch, block.heads, slice(*block.rows), slice(*block.columns))):
            if tensor.shape[dim] != 1:
                tensor = tensor[(slice(None),) * dim + (wanted,)]
        return tensor

    def seen(self, block: Block) -> Tensor | None:
        """True where a key is visible, for the columns from `first_hidden` on: broadcasts to `[entries, heads, rows, columns]`."""
        if block.first_hidden >= block.columns[1]:
            return None
        columns = (block.first_hidden, block.columns[1])
        seen = self.visibility.tile(block.rows, columns, self.query.device, block.batch, block.heads)
        if self.additive_mask is None or not self.hides_outright:
            return seen
        shown = ~hides(self.part_of(self.additive_mask, block))
        return shown if seen is None else seen & shown

    def levels(self, block: Block, seen: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """The additive mask less its largest visible number of each row, -inf where a key is hidden, and that number; None without a mask.

        Both broadcast to `[entries, heads, rows, columns]`.
        """
        if self.additive_mask is None:
            return None
        part = self.part_of(self.additive_mask, block).to(self.exact)
        if seen is not None:
            part = torch.where(seen, part, -math.inf)
        highest = part.amax(-1, keepdim=True)
        highest = highest.masked_fill(highest == -math.inf, 0.0)
        return part - highest, highest

    def maskable(self, tile: Tensor, block: Block) -> Tensor:
        """The columns of a tile from `first_hidden` on, as `[entries, heads, rows, columns]`."""
        return self.by_head(tile, block)[..., block.first_hidden - block.columns[0] :]

    def dropout(self, block: Block) -> Tensor | None:
        """The block's dropout factors, 0 or 1 / (1 - dropout_p): `[entries * kv_heads, groups * rows, columns]`."""
        if self.dropout_p == 0.0:
            return None
        entries = (block.batch.stop - block.batch.start) * (block.kv_heads.stop - block.kv_heads.start)
        shape = (entries, self.groups * (block.rows[1] - block.rows[0]), block.columns[1] - block.columns[0])
        factors = torch.empty(shape, dtype=self.exact).bernoulli_(1.0 - self.dropout_p, generator=self.generator)
        return factors.div_(1.0 - self.dropout_p)

    def scratch(self, count: int) -> list[Tensor]:
        """`count` flat buffers, each as large as the largest tile."""
        largest = 0
        for block in self.blocks():
            largest = max(largest, self.tile_size(block))
        return [torch.empty(largest, dtype=self.exact) for _ in range(count)]

    def tile_size(self, block: Block) -> int:
        """How many scores a block has."""
        sides = (block.batch, block.heads, slice(*block.rows), slice(*block.columns))
        return math.prod(side.stop - side.start for side in sides)

    def tile_in(self, buffer: Tensor, block: Block) -> Tensor:
        """A tile of the block's shape at the start of a flat buffer."""
        rows, columns = self.groups * (block.rows[1] - block.rows[0]), block.columns[1] - block.columns[0]
        return buffer[: self.tile_size(block)].view(-1, rows, columns)


def blocked_forward(problem: BlockedProblem) -> tuple[Tensor, Tensor]:
    """Output `[batch, heads, queries, value_dim]` in float32 (or float64), and L `[batch, heads, queries]` likewise."""
    shape = (problem.batch, problem.heads, problem.queries)
    output = torch.zeros(*shape, problem.value.shape[-1], dtype=problem.exact)
    lse = torch.full(shape, math.inf, dtype=problem.exact)
    buffers = problem.scratch(2)
    for block in problem.blocks():
        scores, weights = (problem.tile_in(buffer, block) for buffer in buffers)
        total, shift, _, _ = _weigh(problem, block, scores, weights)
        factors = problem.dropout(block)
        if factors is not None:
            weights.mul_(factors)
        empty = total == 0
        result = torch.bmm(weights, problem.columns_of(problem.value, block)).div_(total.masked_fill(empty, 1.0))
        row_lse = total.log_().add_(shift).masked_fill_(empty, math.inf)
        here = (block.batch, block.heads, slice(*block.rows))
        output[here] = problem.by_head(result, block)
        lse[here] = problem.by_head(row_lse, block).squeeze(-1)
    return output, lse


def _weigh(
    problem: BlockedProblem, block: Block, scores: Tensor, weights: Tensor, *, negative: bool = False
) -> tuple[Tensor, Tensor | float, Tensor | None, Tensor | None]:
    """Fill in the positive exponentials (into `scores`) and the signed weights, both without their denominator.

    Returns the denominator and the shift, both per row, the negative exponentials if they are wanted, and what `scores` returns.
    """
    seen = problem.seen(block)
    shift: Tensor | float = 0.0
    plain, levels = problem.plain(block), problem.levels(block, seen)
    capped = problem.scores(block, scores, LOG2_OF_E if plain else 1.0)
    if plain:
        polarity = problem.per_head(torch.exp(problem.log_polarity), block)
        small = problem.below(block, SMALL_LIMIT)
        if small:
            torch.mul(scores, math.log(2.0), out=weights).sinh_().mul_(2.0 * polarity)
        positive = scores.exp2_()
        if small:
            weights.addcmul_(1.0 - polarity, positive)
        else:
            torch.addcdiv(positive, polarity, positive, value=-1, out=weights)
        opposite = torch.div(polarity, positive) if negative else None
    else:
        shift = _shift(problem, block, seen, levels, scores, spare=weights)
        torch.sub(problem.per_head(problem.log_polarity, block) - shift, scores, out=weights)
        scores.sub_(shift)
        if levels is not None:
            for tile in (scores, weights):
                problem.by_head(tile, block).add_(levels[0])
        weights.exp_()
        positive = scores.exp_()
        opposite = weights.clone() if negative else None
        torch.sub(positive, weights, out=weights)
    tiles = [problem.maskable(item, block) for item in (positive, weights, opposite) if item is not None]
    factor = levels[0].exp() if levels is not None else None if seen is None else seen.to(problem.exact)
    for tile in tiles:
        # Where all is finite, a product masks as well as a fill, and several times as fast.
        if plain and factor is not None:
            tile.mul_(factor)
        elif seen is not None:
            tile.masked_fill_(~seen, 0.0)
    if levels is not None:
        shift = shift + levels[1].expand(*problem.by_head(scores, block).shape[:3], 1).reshape(*scores.shape[:2], 1)
    return positive.sum(-1, keepdim=True).mul_(2.0).sub_(weights.sum(-1, keepdim=True)), shift, opposite, capped


def _shift(
    problem: BlockedProblem, block: Block, seen: Tensor | None, levels: tuple[Tensor, Tensor] | None, scores: Tensor, *, spare: Tensor
) -> Tensor:
    """The largest exponent of each row over its visible keys; hidden scores are 0 afterwards, infinite ones finite."""
    limit = torch.finfo(scores.dtype).max / 4
    scores.clamp_(-limit, limit)
    extremes = []
    for sign, extreme in ((1, torch.amax), (-1, torch.amin)):
        tile = scores
        if levels is not None:
            tile = spare
            torch.add(problem.by_head(scores, block), levels[0], alpha=sign, out=problem.by_head(tile, block))
        if seen is not None:
            problem.maskable(tile, block).masked_fill_(~seen, -sign * math.inf)
        extremes.append(extreme(tile, -1, keepdim=True))
    if seen is not None:
        problem.maskable(scores, block).masked_fill_(~seen, 0.0)
    shift = torch.maximum(extremes[0], problem.per_head(problem.log_polarity, block) - extremes[1])
    return shift.masked_fill_(shift == -math.inf, 0.0)


@dataclass
class BlockedGradients:
    """What `blocked_backward` returns: gradients in the shapes of their tensors, None where none was asked for."""

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor | None
    additive_mask: Tensor | None
    log_polarity: Tensor | None


def blocked_backward(
    problem: BlockedProblem, grad_output: Tensor, *, bias: bool = False, additive_mask: bool = False, log_polarity: bool = False
) -> BlockedGradients:
    """Gradients from that of the output; `bias`, `additive_mask` and `log_polarity` say whether theirs are wanted.

    Every block holds whole rows, so the denominator and D are computed anew: L and O carry a rounding that grows with the scores.
    """
    grad_output = grad_output.to(problem.exact)

    def _zeros(like: Tensor) -> Tensor:
        return torch.zeros(like.shape, dtype=problem.exact)

    gradients = BlockedGradients(
        query=_zeros(problem.query),
        key=_zeros(problem.key),
        value=_zeros(problem.value),
        bias=_zeros(problem.bias) if bias and problem.bias is not None else None,
        additive_mask=_zeros(problem.additive_mask) if additive_mask and problem.additive_mask is not None else None,
        log_polarity=_zeros(problem.log_polarity) if log_polarity else None,
    )
    buffers = problem.scratch(4)
    for block in problem.blocks():
        scores, weights, grad_scores, product = (problem.tile_in(buffer, block) for buffer in buffers)
        total, _, negative, capped = _weigh(problem, block, scores, weights, negative=log_polarity)
        inverse = total.reciprocal().masked_fill_(total == 0, 0.0)
        row_grad = problem.rows_of(grad_output, block) * inverse
        factors = problem.dropout(block)
        torch.bmm(row_grad, problem.columns_of(problem.value, block).transpose(1, 2), out=grad_scores)
        if factors is not None:
            grad_scores.mul_(factors)
        row_delta = torch.mul(grad_scores, weights, out=product).sum(-1, keepdim=True).mul_(inverse)
        if negative is not None and gradients.log_polarity is not None:
            per_row = negative.mul_(grad_scores + row_delta).sum(-1, keepdim=True)
            gradients.log_polarity[block.heads] -= problem.by_head(per_row, block).sum((0, 2, 3))
        # The gradient of the scores: C dP - W D, with C = 2E - W.
        torch.sub(weights, scores, alpha=2.0, out=scores)
        if gradients.additive_mask is not None:  # W dP - C D
            _add_up(problem, block, gradients.additive_mask, product.addcmul_(scores, row_delta))
        grad_scores.mul_(scores.neg_()).addcmul_(weights, row_delta, value=-1.0)
        if factors is not None:
            weights.mul_(factors)
        problem.columns_of(gradients.value, block).baddbmm_(weights.transpose(1, 2), row_grad)
        _back_to_inputs(problem, block, gradients, grad_scores, capped)
    return gradients


def _add_up(problem: BlockedProblem, block: Block, total: Tensor, tile: Tensor) -> None:
    """Add a tile to the block's part of a gradient that broadcasts to `[batch, heads, queries, keys]`."""
    part = problem.part_of(total, block)
    part += problem.by_head(tile, block).sum_to_size(part.shape)


def _back_to_inputs(problem: BlockedProblem, block: Block, gradients: BlockedGradients, grad_scores: Tensor, capped: Tensor | None) -> None:
    """From the gradient of a block's scores to those of bias, query and key."""
    if gradients.bias is not None:
        _add_up(problem, block, gradients.bias, grad_scores)
    if capped is not None:
        grad_scores.addcmul_(grad_scores * capped, capped, value=-1.0)
    grad_query = torch.bmm(grad_scores, problem.columns_of(problem.key, block)).mul_(problem.scale)
    gradients.query[block.batch, block.heads, slice(*block.rows)] = problem.by_head(grad_query, block)
    query = problem.rows_of(problem.query, block)
    problem.columns_of(gradients.key, block).baddbmm_(grad_scores.transpose(1, 2), query, alpha=problem.scale)


# hf_tanhmax/native_code.py
r"""TanhMax attention on the CPU in C++: the source text that `native` builds.

A tile is a block of queries of one head, times all keys that any of them may see. Its scores, its product with the values and, in the
backward pass, the three products of the gradients are matrix products by `sgemm_`, which torch's own library exports; between them each row
is passed over once, with both exponentials of a score from one split of the exponent :math:`x = n + f`, `n` whole, :math:`f^2 \le 1/4`.
With the even and odd parts of :math:`2^f` as polynomials :math:`e` and :math:`o` in :math:`f`,

.. math:: P = 2^n (e + o), \quad N = p\,2^{-n} (e - o), \quad W' = P - N.

So the map is odd to the bit, and keeps its digits where the scores are small. That is for heads whose scores are known to be small
(`blocked` says how); the rows of others are shifted first, as there.

The backward pass computes tiles anew and needs neither output nor log-sum-exp of the forward pass: its rows are whole. One thread takes all
queries of a key head, so that nothing is added in an order that changes from run to run.
"""

SOURCE = r"""
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>

// Integers are passed as 64 bits: on the little-endian machines that this is built for, a library that wants 32 reads the lower half.
extern "C" void sgemm_(const char*, const char*, const int64_t*, const int64_t*, const int64_t*, const float*, const float*, const int64_t*,
                       const float*, const int64_t*, const float*, float*, const int64_t*);

// Tensors [batch, heads or kv_heads, length, width] of dense rows; steps: the strides of the first three dimensions.
struct Call {
  const float *query, *key, *value, *grad_output;
  const float *polarity, *log_polarity;   // by head and query: with steps, as that of queries may be 0
  const int64_t *low, *high;              // [queries]: the keys that a query may see are from low to high,
  const uint8_t *keep;                    // and of those, where keep is not null, the ones where it is 1
  const uint8_t *plain;                   // [batch, kv_heads]: whether scores need no shift
  float *output, *lse;                    // dense [batch, heads, queries, value_width] and [batch, heads, queries]
  float *grad_query, *grad_key, *grad_value;  // dense, and zero at the start
  float *grad_log_polarity;               // by row: dense [batch, heads, queries], zero at the start; or null
  float *scratch;                         // for each thread: rows * (keys, and backward 3 keys + value_width + 1)
  int64_t query_steps[3], key_steps[3], value_steps[3], grad_output_steps[3], keep_steps[4], polarity_steps[2];
  int64_t batch, heads, kv_heads, queries, keys, width, value_width, rows, threads;
  double scale;
};

namespace {

constexpr int64_t LANES = 16;       // independent sums, so that loops become vector code without reordering any sum
constexpr int64_t ALONE = 1 << 14;  // fewer scores are not worth a second thread
constexpr float LOG2_OF_E = 1.44269504088896341f;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

struct Split {
  float even, odd;
  int32_t whole;
};

// 2^(whole + f) = 2^whole (even + odd) for |f| <= 1/2, and 2^-f = even - odd. Minimax polynomials: relative errors 5e-11 (even) and 1.1e-8.
inline Split split(float f, float whole) {
  const float g = f * f;
  const float even = 1.0f + g * (0.240226510699f + g * (0.00961803768228f + g * 0.000154668887246f));
  const float odd = f * (0.693147187958f + g * (0.0555035733248f + g * 0.00133907759805f));
  return {even, odd, static_cast<int32_t>(whole)};
}

inline float power_of_two(int32_t n) {  // for -126 <= n <= 127
  const int32_t bits = (n + 127) * (1 << 23);
  float found;
  std::memcpy(&found, &bits, sizeof found);
  return found;
}

inline float nearest(float x) {
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding and taking it away rounds to the nearest integer
  return (x + magic) - magic;
}

inline float exponential(float x) {  // e^x for x <= 0; 0 below -87; finite above 0, where only hidden keys are
  constexpr float low_part = 1.92596303e-8f;  // log2(e) - LOG2_OF_E
  const float below = x > 0.0f ? 0.0f : x, bounded = below < -87.0f ? -87.0f : below;
  const float n = nearest(bounded * LOG2_OF_E);
  const Split parts = split(std::fma(bounded, LOG2_OF_E, -n) + bounded * low_part, n);
  const float found = power_of_two(parts.whole) * (parts.even + parts.odd);
  return x < -87.0f ? 0.0f : found;
}

float total_of(const float* sums) {
  float found = 0.0f;
  for (int64_t lane = 0; lane < LANES; ++lane) found += sums[lane];
  return found;
}

// The map of one row: how a score becomes P and N.
struct Plain {
  float polarity;
  float shift() const { return 0.0f; }
  inline void operator()(float x, float& positive, float& negative) const {  // x: times log2(e), |x| < 126
    const float n = nearest(x);
    const Split parts = split(x - n, n);
    positive = power_of_two(parts.whole) * (parts.even + parts.odd);
    negative = polarity * (power_of_two(-parts.whole) * (parts.even - parts.odd));
  }
};

struct Shifted {
  float highest, log_polarity;
  float shift() const { return highest; }
  inline void operator()(float x, float& positive, float& negative) const {
    positive = exponential(x - highest);
    negative = exponential((log_polarity - highest) - x);
  }
};

// A row of scores that becomes weights in place; N goes to negatives if it is kept.
struct Row {
  float *weights, *negatives;
  const uint8_t* seen;  // by column; null: all
  int64_t step, low, high;
};

template <bool MASKED, bool KEPT, class Map>
inline float weigh_one(const Row& row, const Map& map, int64_t column, int64_t step) {
  float positive, negative;
  map(row.weights[column], positive, negative);
  if (MASKED) {
    const float visible = static_cast<float>(row.seen[column * step]);
    positive *= visible;
    negative *= visible;
  }
  row.weights[column] = positive - negative;
  if (KEPT) row.negatives[column] = negative;
  return positive + negative;
}

template <bool MASKED, bool KEPT, class Map>
float weigh_columns(const Row& row, const Map& map, int64_t step) {
  float sums[LANES] = {};
  int64_t column = row.low;
  for (; column + LANES <= row.high; column += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) sums[lane] += weigh_one<MASKED, KEPT>(row, map, column + lane, step);
  for (; column < row.high; ++column) sums[0] += weigh_one<MASKED, KEPT>(row, map, column, step);
  return total_of(sums);
}

template <bool KEPT, class Map>
float weigh_row(const Row& row, const Map& map) {  // returns the sum of P + N
  if (row.seen == nullptr) return weigh_columns<false, KEPT>(row, map, 0);
  return row.step == 1 ? weigh_columns<true, KEPT>(row, map, 1) : weigh_columns<true, KEPT>(row, map, row.step);
}

// The largest exponent of a row over its visible keys: of its scores and of log p minus them.
template <bool MASKED>
float highest_exponent(const Row& row, float log_polarity, int64_t step) {
  float highest[LANES], lowest[LANES];
  for (int64_t lane = 0; lane < LANES; ++lane) highest[lane] = -INFINITY, lowest[lane] = INFINITY;
  const auto look = [&](int64_t column, int64_t lane) {
    const float x = row.weights[column];
    const bool visible = !MASKED || row.seen[column * step] != 0;
    const float high = visible ? x : -INFINITY, low = visible ? x : INFINITY;
    highest[lane] = high > highest[lane] ? high : highest[lane];
    lowest[lane] = low < lowest[lane] ? low : lowest[lane];
  };
  int64_t column = row.low;
  for (; column + LANES <= row.high; column += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) look(column + lane, lane);
  for (; column < row.high; ++column) look(column, 0);
  for (int64_t lane = 1; lane < LANES; ++lane) {
    highest[0] = std::fmax(highest[0], highest[lane]);
    lowest[0] = std::fmin(lowest[0], lowest[lane]);
  }
  const float found = std::fmax(highest[0], log_polarity - lowest[0]);
  return found == -INFINITY ? 0.0f : found;
}

float highest_exponent(const Row& row, float log_polarity) {
  if (row.seen == nullptr) return highest_exponent<false>(row, log_polarity, 0);
  return row.step == 1 ? highest_exponent<true>(row, log_polarity, 1) : highest_exponent<true>(row, log_polarity, row.step);
}

struct Tile {
  int64_t entry, head, kv_head, first, rows, low, columns;
};

Tile tile_at(const Call& call, int64_t entry, int64_t head, int64_t first) {
  Tile tile{entry, head, head / (call.heads / call.kv_heads), first, least(call.rows, call.queries - first), call.keys, 0};
  int64_t high = 0;
  for (int64_t row = first; row < first + tile.rows; ++row) {
    if (call.low[row] >= call.high[row]) continue;
    tile.low = least(tile.low, call.low[row]);
    high = most(high, call.high[row]);
  }
  tile.columns = most(0, high - tile.low);
  return tile;
}

const float* part(const float* tensor, const int64_t* steps, int64_t entry, int64_t head, int64_t place) {
  return tensor + entry * steps[0] + head * steps[1] + place * steps[2];
}

// C [m, n] = alpha A B + beta C, for rows as C has them: the library has columns where we have rows, so A and B change places.
void multiply(bool a_turned, bool b_turned, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t a_step, const float* b,
              int64_t b_step, float beta, float* c, int64_t c_step) {
  const char first = b_turned ? 'T' : 'N', second = a_turned ? 'T' : 'N';
  sgemm_(&first, &second, &n, &m, &k, &alpha, b, &b_step, a, &a_step, &beta, c, &c_step);
}

// [rows, columns] = alpha X Y^T, with rows of X by query and of Y by key.
void scores_of(const Tile& tile, int64_t width, float alpha, const float* x, int64_t x_step, const float* y, int64_t y_step, float* found) {
  multiply(false, true, tile.rows, tile.columns, width, alpha, x, most(x_step, width), y, most(y_step, width), 0.0f, found, tile.columns);
}

template <bool KEPT>
float weigh(const Row& row, bool plain, float polarity, float log_polarity, float& shift) {
  if (plain) return weigh_row<KEPT>(row, Plain{polarity});
  shift = highest_exponent(row, log_polarity);
  return weigh_row<KEPT>(row, Shifted{shift, log_polarity});
}

void clear_outside(const Row& row, float* values, int64_t columns) {
  for (int64_t column = 0; column < row.low; ++column) values[column] = 0.0f;
  for (int64_t column = row.high; column < columns; ++column) values[column] = 0.0f;
}

Row row_of(const Call& call, const Tile& tile, int64_t place, float* weights, float* negatives) {
  const int64_t query = tile.first + place, start = place * tile.columns;
  const int64_t low = least(most(call.low[query] - tile.low, 0), tile.columns), high = most(low, call.high[query] - tile.low);
  const uint8_t* seen = nullptr;
  if (call.keep != nullptr) {
    seen = call.keep + tile.entry * call.keep_steps[0] + tile.head * call.keep_steps[1] + query * call.keep_steps[2];
    seen += tile.low * call.keep_steps[3];
  }
  return {weights + start, negatives == nullptr ? nullptr : negatives + start, seen, call.keep_steps[3], low, least(high, tile.columns)};
}

// Scores of a tile as weights without their denominator; totals: the denominators. shifts may be null.
template <bool KEPT>
void weigh_tile(const Call& call, const Tile& tile, float* weights, float* negatives, float* totals, float* shifts) {
  const bool plain = call.plain[tile.entry * call.kv_heads + tile.kv_head];
  const float alpha = static_cast<float>(plain ? call.scale * 1.44269504088896341 : call.scale);
  const float* query = part(call.query, call.query_steps, tile.entry, tile.head, tile.first);
  const float* key = part(call.key, call.key_steps, tile.entry, tile.kv_head, tile.low);
  scores_of(tile, call.width, alpha, query, call.query_steps[2], key, call.key_steps[2], weights);
  for (int64_t place = 0; place < tile.rows; ++place) {
    const Row row = row_of(call, tile, place, weights, negatives);
    float shift = 0.0f;
    const int64_t own = tile.head * call.polarity_steps[0] + (tile.first + place) * call.polarity_steps[1];
    totals[place] = weigh<KEPT>(row, plain, call.polarity[own], call.log_polarity[own], shift);
    if (shifts != nullptr) shifts[place] = shift;
    clear_outside(row, row.weights, tile.columns);
  }
}

void forward_tile(const Call& call, const Tile& tile, float* weights) {
  const int64_t start = (tile.entry * call.heads + tile.head) * call.queries + tile.first, width = call.value_width;
  float *output = call.output + start * width, *lse = call.lse + start;
  float* const totals = weights + call.rows * call.keys;
  weigh_tile<false>(call, tile, weights, nullptr, totals, lse);
  const float* value = part(call.value, call.value_steps, tile.entry, tile.kv_head, tile.low);
  multiply(false, false, tile.rows, width, tile.columns, 1.0f, weights, tile.columns, value, most(call.value_steps[2], width), 0.0f, output,
           most(width, 1));
  for (int64_t place = 0; place < tile.rows; ++place) {
    const bool empty = totals[place] == 0.0f;
    const float inverse = empty ? 0.0f : 1.0f / totals[place];
    for (int64_t column = 0; column < width; ++column) output[place * width + column] *= inverse;
    lse[place] = empty ? INFINITY : std::log(totals[place]) + lse[place];
  }
}

// grads: dO V^T over the denominator; becomes the gradient of the scores. Returns the sum of N (dP + D) over the denominator.
float score_gradient(const Row& row, float* grads, float inverse, bool summed) {
  float products[LANES] = {}, parts[LANES] = {};
  int64_t column = row.low;
  for (; column + LANES <= row.high; column += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) products[lane] += grads[column + lane] * row.weights[column + lane];
  for (; column < row.high; ++column) products[0] += grads[column] * row.weights[column];
  const float delta = total_of(products) * inverse;
  if (summed) {
    for (column = row.low; column + LANES <= row.high; column += LANES)
      for (int64_t lane = 0; lane < LANES; ++lane) parts[lane] += row.negatives[column + lane] * (grads[column + lane] + delta);
    for (; column < row.high; ++column) parts[0] += row.negatives[column] * (grads[column] + delta);
  }
  for (column = row.low; column < row.high; ++column)
    grads[column] = row.weights[column] * (grads[column] - delta) + 2.0f * row.negatives[column] * grads[column];
  return total_of(parts);
}

void backward_tile(const Call& call, const Tile& tile, float* weights) {
  const int64_t size = call.rows * call.keys, width = call.width, value_width = call.value_width;
  float *negatives = weights + size, *grads = negatives + size, *upstream = grads + size, *inverses = upstream + call.rows * value_width;
  weigh_tile<true>(call, tile, weights, negatives, inverses, nullptr);
  for (int64_t place = 0; place < tile.rows; ++place) {
    const float* own = part(call.grad_output, call.grad_output_steps, tile.entry, tile.head, tile.first + place);
    inverses[place] = inverses[place] == 0.0f ? 0.0f : 1.0f / inverses[place];
    for (int64_t column = 0; column < value_width; ++column) upstream[place * value_width + column] = own[column] * inverses[place];
  }
  const int64_t keys = (tile.entry * call.kv_heads + tile.kv_head) * call.keys + tile.low;
  const int64_t upstream_step = most(value_width, 1), query_step = most(call.query_steps[2], width);
  multiply(true, false, tile.columns, value_width, tile.rows, 1.0f, weights, tile.columns, upstream, upstream_step, 1.0f,
           call.grad_value + keys * value_width, upstream_step);
  const float* value = part(call.value, call.value_steps, tile.entry, tile.kv_head, tile.low);
  scores_of(tile, value_width, 1.0f, upstream, upstream_step, value, call.value_steps[2], grads);
  const int64_t queries = (tile.entry * call.heads + tile.head) * call.queries + tile.first;
  for (int64_t place = 0; place < tile.rows; ++place) {
    const Row row = row_of(call, tile, place, weights, negatives);
    const float sum = score_gradient(row, grads + place * tile.columns, inverses[place], call.grad_log_polarity != nullptr);
    if (call.grad_log_polarity != nullptr) call.grad_log_polarity[queries + place] = -sum;
    clear_outside(row, grads + place * tile.columns, tile.columns);
  }
  const float scale = static_cast<float>(call.scale);
  const float* query = part(call.query, call.query_steps, tile.entry, tile.head, tile.first);
  const float* key = part(call.key, call.key_steps, tile.entry, tile.kv_head, tile.low);
  multiply(false, false, tile.rows, width, tile.columns, scale, grads, tile.columns, key, most(call.key_steps[2], width), 0.0f,
           call.grad_query + queries * width, most(width, 1));
  multiply(true, false, tile.columns, width, tile.rows, scale, grads, tile.columns, query, query_step, 1.0f, call.grad_key + keys * width,
           most(width, 1));
}

}  // namespace

extern "C" {

void hf_tanhmax_forward(const Call* call) {
  const int64_t blocks = (call->queries + call->rows - 1) / call->rows, units = call->batch * call->heads * blocks;
  const int64_t share = call->rows * (call->keys + 1);
#pragma omp parallel for schedule(dynamic) num_threads(call->threads) if (units > 1 && units * share > ALONE)
  for (int64_t unit = 0; unit < units; ++unit) {
    const Tile tile = tile_at(*call, unit / blocks / call->heads, unit / blocks % call->heads, unit % blocks * call->rows);
    if (tile.columns > 0) forward_tile(*call, tile, call->scratch + omp_get_thread_num() * share);
  }
}

void hf_tanhmax_backward(const Call* call) {
  const int64_t units = call->batch * call->kv_heads, groups = call->heads / call->kv_heads;
  const int64_t share = call->rows * (3 * call->keys + call->value_width + 1);
#pragma omp parallel for schedule(dynamic) num_threads(call->threads) if (units > 1 && units * share > ALONE)
  for (int64_t unit = 0; unit < units; ++unit)
    for (int64_t head = unit % call->kv_heads * groups; head < (unit % call->kv_heads + 1) * groups; ++head)
      for (int64_t first = 0; first < call->queries; first += call->rows) {
        const Tile tile = tile_at(*call, unit / call->kv_heads, head, first);
        if (tile.columns > 0) backward_tile(*call, tile, call->scratch + omp_get_thread_num() * share);
      }
}

}  // extern "C"
"""


# hf_tanhmax/native.py
"""The library of `native_code`: built on first use by torch's extension loader, kept, and never required.

It needs a C++ compiler with OpenMP, and ninja. It is kept in torch's folder for extensions (`TORCH_EXTENSIONS_DIR`, by default
`~/.cache/torch_extensions`), in a folder of its own for each version of the code, its flags, torch and kind of CPU. A process that finds
none there builds one in a folder that nobody else has and then moves it into place, so several may do that at once, and one that is stopped
leaves no lock behind.

The environment variable `HF_TANHMAX_NATIVE` has the say: `0` never uses it, `1` raises where it cannot be built; unset, where it cannot be
built, that is logged once in one line, and attention runs with torch's own operators.
"""


logger = logging.getLogger(__name__)

NATIVE_SWITCH = "HF_TANHMAX_NATIVE"
NATIVE_FLAGS = ("-O3", "-std=c++17", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
NATIVE_NAME = "hf_tanhmax_attention"


def native_library() -> ctypes.CDLL | None:
    """The library; None where `why_no_library` says why not.

    Raises:
        RuntimeError: it is wanted by `HF_TANHMAX_NATIVE=1` and cannot be built.
        ValueError: `HF_TANHMAX_NATIVE` is neither 0 nor 1.
    """
    found = _native_or_reason(os.environ.get(NATIVE_SWITCH))
    return None if isinstance(found, str) else found


def why_no_library() -> str | None:
    """Why there is none, as the end of a sentence about the operator; None if there is one. Raises as `native_library`."""
    found = _native_or_reason(os.environ.get(NATIVE_SWITCH))
    return found if isinstance(found, str) else None


def _native_or_reason(switch: str | None) -> ctypes.CDLL | str:
    if switch == "0":
        return f"is switched off by {NATIVE_SWITCH}=0"
    if switch not in (None, "", "1"):
        raise ValueError(f"{NATIVE_SWITCH} is {switch!r}; set it to 0 (never) or 1 (always), or not at all")
    found = _native_library()
    if isinstance(found, str):
        if switch == "1":
            raise RuntimeError(f"{NATIVE_SWITCH}=1 asks for the C++ operator, but it {found}")
        _warn_of(found)
    return found


@functools.cache
def _native_library() -> ctypes.CDLL | str:
    try:
        return ctypes.CDLL(str(_built_library()))
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"could not be built: {_telling_line(error)}"


@functools.cache
def _warn_of(reason: str) -> None:
    logger.warning("TanhMax attention on the CPU does without its C++ operator, which %s (%s=0: as intended)", reason, NATIVE_SWITCH)


def _built_library() -> Path:
    """The path of the library, which is there afterwards."""
    if sys.byteorder != "little":
        raise RuntimeError("it is for little-endian machines")
    home = os.environ.get("TORCH_EXTENSIONS_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"
    folder = Path(home) / f"{NATIVE_NAME}_{_kind_of_library()}"
    path = folder / f"{NATIVE_NAME}.so"
    if not path.exists():
        from torch.utils.cpp_extension import load_inline

        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as own, _quiet_loader():
            options = {"no_implicit_headers": True, "is_python_module": False, "with_cuda": False}
            load_inline(NATIVE_NAME, SOURCE, extra_cflags=list(NATIVE_FLAGS), build_directory=own, **options)
            next(Path(own).glob("*.so")).replace(path)
    return path


@contextmanager
def _quiet_loader() -> Iterator[None]:
    """Without what the loader says of compilers: it is about classes of torch, of which the library uses none; and failures raise."""
    loader = logging.getLogger("torch.utils.cpp_extension")
    level = loader.level
    loader.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        loader.setLevel(level)


def _kind_of_library() -> str:
    """What a library depends on: this source, its flags, the compiler, torch, and what the CPU can do (`-march=native`)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    able = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    parts = (SOURCE, *NATIVE_FLAGS, os.environ.get("CXX", ""), torch.__version__, platform.machine(), platform.processor(), able)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _telling_line(error: Exception) -> str:
    """The line of an error that says most: the compiler's, the linker's or the system's own, else the first."""
    lines = [line.strip() for text in (error, error.__cause__ or "") for line in str(text).splitlines() if line.strip()]
    telling = (line for line in lines if any(word in line for word in ("error:", "not found", "undefined symbol")))
    return next(telling, next(iter(lines), type(error).__name__))[:200]


# hf_tanhmax/native_attention.py
"""TanhMax attention on the CPU by the C++ operator: what it computes, and the call.

A call is the operator's if none of these holds; else, and where there is no library (`native`), it is `blocked`'s. Both give the same, to
rounding. Nothing is tried: the reasons are known before.

* float64, which it does not compute;
* a bias, an additive mask, a softcap or dropout;
* a tensor without elements;
* no finite bound of the scores (`BlockedProblem.bounds`): NaN, infinity, or lengths whose squares overflow.

It computes in float32 (a bfloat16 or float16 call is widened first, as `blocked` does). Whole rows of scores are held, for `native_rows`
queries of one head and each thread, and three times in the backward pass: memory grows with the length, not with its square.
"""


NATIVE_TILE = 1 << 19
NATIVE_ROWS = 128
PLACE: dict[str, Any] = {
    "dtype": torch.float32,
    "device": "cpu",
}  # always said, as the library writes there: torch's defaults may be set otherwise


POINTERS = (
    *("query", "key", "value", "grad_output", "polarity", "log_polarity", "low", "high", "keep", "plain"),
    *("output", "lse", "grad_query", "grad_key", "grad_value", "grad_log_polarity", "scratch"),
)
STEPS = {"query": 3, "key": 3, "value": 3, "grad_output": 3, "keep": 4, "polarity": 2}
NUMBERS = ("batch", "heads", "kv_heads", "queries", "keys", "width", "value_width", "rows", "threads")


class NativeCall(ctypes.Structure):
    """`Call` in `native_code`, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((f"{name}_steps", ctypes.c_int64 * count) for name, count in STEPS.items()),
        *((name, ctypes.c_int64) for name in NUMBERS),
        ("scale", ctypes.c_double),
    )


def why_not_native(problem: BlockedProblem) -> str | None:
    """Why the C++ operator does not compute this call, as the end of a sentence; None if it does. Raises as `native.native_library`."""
    if problem.exact != torch.float32:
        return f"computes in float32, not in {problem.exact}"
    added = problem.bias is not None or problem.additive_mask is not None
    if added or problem.softcap is not None or problem.dropout_p > 0.0:
        return "has no bias, no additive mask, no softcap and no dropout"
    if 0 in (*problem.query.shape, *problem.key.shape, *problem.value.shape):
        return "computes nothing from empty tensors"
    if not bool(torch.isfinite(problem.bounds).all()):
        return "needs queries, keys and log-polarities that bound the scores by a finite number"
    return why_no_library()


def native_rows(queries: int, keys: int) -> int:
    """How many queries a tile has: about `NATIVE_TILE` scores, but 16 to `NATIVE_ROWS` queries."""
    return max(1, min(queries, NATIVE_ROWS, max(16, NATIVE_TILE // max(1, keys))))


def native_forward(problem: BlockedProblem) -> tuple[Tensor, Tensor]:
    """As `blocked.blocked_forward`."""
    shape = (problem.batch, problem.heads, problem.queries)
    output = torch.zeros(*shape, problem.value.shape[3], **PLACE)
    lse = torch.full(shape, math.inf, **PLACE)
    _call_library("hf_tanhmax_forward", problem, None, tiles=1, spare=1, output=output, lse=lse)
    return output, lse


def native_backward(problem: BlockedProblem, grad_output: Tensor, *, log_polarity: bool = False) -> BlockedGradients:
    """As `blocked.blocked_backward`; there is neither bias nor additive mask."""
    query, key, value = (torch.zeros(tensor.shape, **PLACE) for tensor in (problem.query, problem.key, problem.value))
    sums = torch.zeros(problem.batch, problem.heads, problem.queries, **PLACE) if log_polarity else None
    tensors = {"grad_query": query, "grad_key": key, "grad_value": value, "grad_log_polarity": sums}
    spare = problem.value.shape[3] + 1
    _call_library("hf_tanhmax_backward", problem, grad_output.to(torch.float32), tiles=3, spare=spare, **tensors)
    return BlockedGradients(query, key, value, None, None, None if sums is None else sums.sum((0, 2)))


def _call_library(
    function: str, problem: BlockedProblem, grad_output: Tensor | None, *, tiles: int, spare: int, **results: Tensor | None
) -> None:
    """Call a function of the library: `tiles` tiles of scratch memory for each thread, and `spare` numbers more for each of their rows."""
    by_query = _by_query(problem, grad_output)
    batch, heads, queries, width = by_query["query"].shape
    rows, threads = native_rows(queries, problem.keys), torch.get_num_threads()
    held = results | by_query
    held |= {"key": _dense_rows(problem.key), "value": _dense_rows(problem.value), "plain": (problem.bounds < PLAIN_LIMIT).contiguous()}
    held["scratch"] = torch.empty(threads * rows * (tiles * problem.keys + spare), **PLACE)
    sizes = {"batch": batch, "heads": heads, "kv_heads": problem.kv_heads, "queries": queries, "keys": problem.keys}
    call = NativeCall(**sizes, width=width, value_width=problem.value.shape[3], rows=rows, threads=threads, scale=problem.scale)
    for name, tensor in held.items():
        if tensor is not None:
            setattr(call, name, tensor.data_ptr())
            if name in STEPS:
                getattr(call, f"{name}_steps")[:] = tensor.stride()[: STEPS[name]]
    getattr(native_library(), function)(ctypes.byref(call))


def _by_query(problem: BlockedProblem, grad_output: Tensor | None) -> dict[str, Tensor]:
    """What is by head and query. A group's heads with a single query become one head with as many queries: their keys are read once."""
    low, high = problem.visibility.row_ranges(problem.query.device)
    found = {"query": problem.query, "log_polarity": problem.log_polarity[:, None].expand(problem.heads, problem.queries)}
    if grad_output is not None:
        found["grad_output"] = grad_output
    if problem.visibility.keep is not None:
        found["keep"] = problem.visibility.keep.expand(problem.batch, problem.heads, problem.queries, problem.keys)
    if problem.queries == 1:
        low, high = (ends.repeat(problem.groups) for ends in (low, high))
        for name, tensor in found.items():
            dim = tensor.dim() // 4
            found[name] = tensor.unflatten(dim, (problem.kv_heads, problem.groups)).squeeze(dim + 2)
    for name in found.keys() & {"query", "grad_output"}:
        found[name] = _dense_rows(found[name])
    log_polarity = found["log_polarity"].contiguous()
    return found | {"low": low, "high": high, "log_polarity": log_polarity, "polarity": torch.exp(log_polarity)}


def _dense_rows(tensor: Tensor) -> Tensor:
    """`[entries, heads, length, width]` with the numbers of a row side by side and no row over another, copied if need be."""
    dense = tensor.stride(3) == 1 and tensor.stride(2) >= tensor.shape[3]
    return tensor if dense else tensor.contiguous()


# hf_tanhmax/kernels/support.py
"""May the fused kernels run here? Answers need no GPU and import Triton only to find out whether it can be imported."""


OLDEST, NEWEST = (3, 6), (3, 9)
OLDEST_CAPABILITY = (8, 0)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST_HEAD = 256
MOST_QUERIES = 16
DEVICES = ("cuda", "xpu")
LATE = "has an interpreter, but TRITON_INTERPRET=1 was set after Triton was imported; set it before triton or hf_tanhmax is imported"


def fused_unsupported(query: Tensor, value: Tensor) -> str | None:
    """Why the fused kernels cannot run a call with these tensors, as the end of a sentence; None if they can."""
    if query.dtype not in DTYPES:
        return f"computes float16, bfloat16 and float32, but the tensors are {query.dtype}"
    for name, size in (("head_dim", query.shape[3]), ("value_dim", value.shape[3])):
        if size > LARGEST_HEAD or size == 0:
            return f"has head sizes from 1 to {LARGEST_HEAD}, but {name} is {size}"
    reason = triton_missing()
    return _device(query) if reason is None else reason


def decode_unsupported(query: Tensor, value: Tensor, *, needs_gradient: bool, dropout_p: float, packed: bool) -> str | None:
    """Why the decoding kernel cannot run a call, as the end of a sentence; None if it can.

    Args:
        query, value: as for `tanhmax_attention`.
        needs_gradient: whether anything that reaches the kernel is to be differentiated.
        dropout_p: share of the weights to drop.
        packed: whether sequences are packed into a batch of one.
    """
    if decodable(query, needs_gradient=needs_gradient, dropout_p=dropout_p, packed=packed):
        return fused_unsupported(query, value)
    if needs_gradient:
        return "has no gradient, but one is needed; call it under torch.no_grad(), or detach the tensors"
    if dropout_p > 0:
        return f"has no dropout, but dropout_p is {dropout_p}"
    if packed:
        return "has no packed sequences, but cu_seqlens is given without a block_table"
    return f"takes 1 to {MOST_QUERIES} queries, but there are {query.shape[2]}"


def decodable(query: Tensor, *, needs_gradient: bool, dropout_p: float, packed: bool) -> bool:
    """Whether the decoding kernel takes a call that the fused kernels take; arguments as in `decode_unsupported`.

    To a compiler with dynamic lengths this is one comparison. A sentence with the number of queries would tie the graph to that number.
    """
    return not (needs_gradient or dropout_p > 0 or packed) and 1 <= query.shape[2] <= MOST_QUERIES


def capability(device: torch.device) -> tuple[int, int] | None:
    """The compute capability of an NVIDIA GPU; None of any other device."""
    return _probe_capability(device.index or 0) if device.type == "cuda" and torch.version.hip is None else None


def _device(query: Tensor) -> str | None:
    if query.device.type == "cpu" and _interpreter_asked():
        return None if interpreted() else LATE
    if query.device.type not in DEVICES:
        return f"runs on {' and '.join(DEVICES)} devices (and in Triton's interpreter), but the tensors are on {query.device}"
    return _capability(query.device.index or 0) if query.device.type == "cuda" else None


# To the compiler these answers are constants. It would trace through a cache, so the caches lie behind functions of their own.
@torch.compiler.assume_constant_result
def triton_missing() -> str | None:
    """Why there is no usable Triton, as the end of a sentence; None if there is one."""
    return probe_triton()


@torch.compiler.assume_constant_result
def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU. Of its own functions, which ours call, it decides when it is imported."""
    library = sys.modules.get("triton.language.standard")
    return _interpreter_asked() and (library is None or not isinstance(library.zeros, sys.modules["triton"].JITFunction))


@torch.compiler.assume_constant_result
def _interpreter_asked() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@torch.compiler.assume_constant_result
def _capability(index: int) -> str | None:
    have = _probe_capability(index)
    if have < OLDEST_CAPABILITY and torch.version.hip is None:
        return f"needs an NVIDIA GPU of compute capability {_dotted(OLDEST_CAPABILITY)} or newer, but this one has {_dotted(have)}"
    return None


@cache
def _probe_capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


@cache
def probe_triton() -> str | None:
    """What `triton_missing` answers, found out once."""
    wanted = f"triton {_dotted(OLDEST)} to {_dotted(NEWEST)}"
    if importlib.util.find_spec("triton") is None:
        return f"needs {wanted}, which is not installed (pip install hf-tanhmax[triton])"
    try:
        module = importlib.import_module("triton")
        importlib.import_module("triton.language")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"needs {wanted}, but the installed one cannot be imported: {error}"
    have = tuple(int(part) for part in re.findall(r"\d+", module.__version__)[:2])
    if not OLDEST <= have <= NEWEST:
        return f"needs {wanted}, but {module.__version__} is installed"
    return None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


# hf_tanhmax/kernels/schedule.py
"""Tiles as a table: how many rows and keys a program takes, with how many warps and pipeline stages, by kernel, head size and dtype.

The rows of a decoding tile are the queries of all heads of a group; `decode_16` is the decoding kernel with 16 of them, and so on.

Every row of the table is compiled ahead of time in the tests, which hold its registers, spills and shared memory. All fit into the 99 KiB
that the smallest supported GPUs give a block. The first row of an entry is used, unless `tuning` is asked to find the fastest.
"""


Kernel = Literal["forward", "key_value", "query", "bias", "decode_16", "decode_32", "decode_64"]
HEAD_SIZES = (16, 32, 64, 128, 256)
SHORTEST = 256  # keys: a shorter chunk takes less time than it takes to start a program and to combine its result
WAVES = 4  # programs for each multiprocessor, so that the memory is busy while some of them begin or end


@dataclass(frozen=True)
class Tile:
    """`rows` of queries by `columns` of keys, computed by `warps` warps with loads `stages` blocks ahead.

    Where `static`, the shift is a fixed one instead of the running maximum; where also `polynomial`, one score in four is exponentiated
    without the special-function unit. `shift` tells what these are. Where `described`, keys and values come by tensor descriptors.
    `registers` is the most that a thread may have, for more programs at once. A row that is `reduced` adds dQ up atomically, and is taken
    only if the user asks. The launcher's `fits` tells for which calls a row is.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    static: bool = False
    polynomial: bool = False
    described: bool = False
    registers: int | None = None
    reduced: bool = False


# (kernel, padded head size, bytes of an element) -> tiles, the default first.
TABLE: dict[tuple[Kernel, int, int], tuple[Tile, ...]] = {
    ("forward", 16, 2): (Tile(128, 64, 4, 3),),
    ("forward", 32, 2): (Tile(128, 64, 4, 3),),
    ("forward", 64, 2): (Tile(128, 64, 8, 3), Tile(64, 64, 4, 3)),
    ("forward", 128, 2): (Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)),
    ("forward", 256, 2): (Tile(64, 32, 8, 2), Tile(64, 16, 4, 2)),
    ("forward", 16, 4): (Tile(64, 32, 4, 2),),
    ("forward", 32, 4): (Tile(64, 32, 4, 2),),
    ("forward", 64, 4): (Tile(32, 32, 4, 2),),
    ("forward", 128, 4): (Tile(16, 32, 4, 2),),
    ("forward", 256, 4): (Tile(16, 32, 8, 1),),
    ("key_value", 16, 2): (Tile(64, 64, 4, 2),),
    ("key_value", 32, 2): (Tile(64, 64, 4, 2),),
    ("key_value", 64, 2): (Tile(32, 128, 8, 2), Tile(64, 128, 8, 2)),
    ("key_value", 128, 2): (Tile(32, 128, 8, 2), Tile(16, 128, 8, 1)),
    ("key_value", 256, 2): (Tile(32, 32, 8, 1),),
    ("key_value", 16, 4): (Tile(32, 32, 4, 1),),
    ("key_value", 32, 4): (Tile(32, 32, 4, 1),),
    ("key_value", 64, 4): (Tile(32, 32, 4, 1),),
    ("key_value", 128, 4): (Tile(16, 32, 4, 1),),
    ("key_value", 256, 4): (Tile(16, 16, 8, 1),),
    ("query", 16, 2): (Tile(128, 64, 4, 2),),
    ("query", 32, 2): (Tile(128, 64, 4, 2),),
    ("query", 64, 2): (Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)),
    ("query", 128, 2): (Tile(128, 32, 8, 1), Tile(64, 64, 8, 1)),
    ("query", 256, 2): (Tile(32, 32, 8, 1), Tile(64, 16, 4, 1)),
    ("query", 16, 4): (Tile(32, 32, 4, 1),),
    ("query", 32, 4): (Tile(32, 32, 4, 1),),
    ("query", 64, 4): (Tile(16, 32, 4, 1),),
    ("query", 128, 4): (Tile(16, 16, 8, 1),),
    ("query", 256, 4): (Tile(16, 16, 8, 1),),
    ("bias", 16, 2): (Tile(64, 64, 4, 1),),
    ("bias", 32, 2): (Tile(64, 64, 8, 1),),
    ("bias", 64, 2): (Tile(64, 64, 8, 1),),
    ("bias", 128, 2): (Tile(64, 64, 8, 1),),
    ("bias", 256, 2): (Tile(32, 64, 8, 1),),
    ("bias", 16, 4): (Tile(32, 32, 4, 1),),
    ("bias", 32, 4): (Tile(32, 32, 4, 1),),
    ("bias", 64, 4): (Tile(32, 32, 4, 1),),
    ("bias", 128, 4): (Tile(16, 32, 4, 1),),
    ("bias", 256, 4): (Tile(16, 16, 4, 1),),
    ("decode_16", 16, 2): (Tile(16, 64, 4, 3),),
    ("decode_16", 32, 2): (Tile(16, 64, 4, 3),),
    ("decode_16", 64, 2): (Tile(16, 64, 4, 3),),
    ("decode_16", 128, 2): (Tile(16, 64, 4, 3),),
    ("decode_16", 256, 2): (Tile(16, 32, 4, 3),),
    ("decode_16", 16, 4): (Tile(16, 64, 4, 2),),
    ("decode_16", 32, 4): (Tile(16, 64, 4, 2),),
    ("decode_16", 64, 4): (Tile(16, 32, 4, 2),),
    ("decode_16", 128, 4): (Tile(16, 32, 4, 2),),
    ("decode_16", 256, 4): (Tile(16, 16, 4, 2),),
    ("decode_32", 16, 2): (Tile(32, 64, 4, 3),),
    ("decode_32", 32, 2): (Tile(32, 64, 4, 3),),
    ("decode_32", 64, 2): (Tile(32, 64, 4, 3),),
    ("decode_32", 128, 2): (Tile(32, 64, 4, 3),),
    ("decode_32", 256, 2): (Tile(32, 32, 8, 2),),
    ("decode_32", 16, 4): (Tile(32, 64, 4, 2),),
    ("decode_32", 32, 4): (Tile(32, 64, 4, 2),),
    ("decode_32", 64, 4): (Tile(32, 32, 4, 2),),
    ("decode_32", 128, 4): (Tile(32, 32, 4, 2),),
    ("decode_32", 256, 4): (Tile(32, 16, 8, 1),),
    ("decode_64", 16, 2): (Tile(64, 64, 4, 3),),
    ("decode_64", 32, 2): (Tile(64, 64, 4, 3),),
    ("decode_64", 64, 2): (Tile(64, 64, 4, 3),),
    ("decode_64", 128, 2): (Tile(64, 64, 4, 2),),
    ("decode_64", 256, 2): (Tile(64, 32, 8, 2),),
    ("decode_64", 16, 4): (Tile(64, 64, 4, 2),),
    ("decode_64", 32, 4): (Tile(64, 64, 4, 2),),
    ("decode_64", 64, 4): (Tile(64, 32, 4, 2),),
    ("decode_64", 128, 4): (Tile(64, 16, 8, 1),),
    ("decode_64", 256, 4): (Tile(32, 16, 8, 1),),
}

# What a GPU of compute capability 9.0 has besides. No GPU has timed these rows, so none is an entry's first.
HOPPER: dict[tuple[Kernel, int, int], tuple[Tile, ...]] = {
    ("forward", 64, 2): (
        Tile(128, 64, 8, 3, static=True),
        Tile(128, 64, 8, 3, static=True, polynomial=True),
        Tile(128, 64, 8, 3, described=True),
        Tile(128, 64, 8, 3, described=True, registers=128),
        Tile(128, 128, 8, 2, described=True),
        Tile(128, 64, 8, 3, static=True, described=True),
        Tile(128, 64, 8, 3, static=True, polynomial=True, described=True),
        Tile(128, 128, 8, 2, static=True, polynomial=True, described=True),
    ),
    ("forward", 128, 2): (
        Tile(128, 64, 8, 2, static=True),
        Tile(128, 64, 8, 2, static=True, polynomial=True),
        Tile(128, 64, 8, 2, described=True),
        Tile(128, 128, 8, 2, described=True),
        Tile(128, 64, 8, 2, static=True, described=True),
        Tile(128, 64, 8, 2, static=True, polynomial=True, described=True),
        Tile(128, 128, 8, 2, static=True, polynomial=True, described=True),
    ),
    ("key_value", 64, 2): (Tile(64, 128, 8, 2, reduced=True),),
    ("key_value", 128, 2): (Tile(32, 128, 8, 1, reduced=True),),
}


def padded_size(head_dim: int) -> int:
    """The head size that a kernel is compiled for: the next power of two, from 16 on."""
    return next(size for size in HEAD_SIZES if size >= head_dim)


def tiles(kernel: Kernel, head_dim: int, element_size: int, capability: tuple[int, int] | None = None) -> tuple[Tile, ...]:
    """The rows of the table for a kernel, by the larger of head size and value size, and the bytes of an element (2 or 4).

    `capability` is the compute capability of an NVIDIA GPU: (9, 0) adds the rows of `HOPPER`.
    """
    entry = kernel, padded_size(head_dim), element_size
    return TABLE[entry] + (HOPPER.get(entry, ()) if capability == (9, 0) else ())


def decode_kernel_for(rows: int) -> Kernel:
    """The kernel whose tile holds the rows of a group, or the largest, of which it then takes several."""
    return "decode_16" if rows <= 16 else "decode_32" if rows <= 32 else "decode_64"


def splits(programs: int, keys: int, processors: int) -> int:
    """Into how many chunks decoding splits the keys: enough for `WAVES` programs a multiprocessor, none shorter than `SHORTEST`.

    Args:
        programs: how many programs there are without splitting: batch entries times key heads, times the tiles of a group.
        keys: as many as any entry of the batch can have.
        processors: multiprocessors of the GPU.
    """
    return max(1, min(math.ceil(WAVES * processors / max(programs, 1)), math.ceil(keys / SHORTEST)))


# hf_tanhmax/kernels/tuning.py
"""What the user asks of the schedule: rows that are timed, once a kind of call (HF_TANHMAX_AUTOTUNE=1), and sums in no certain order."""


TuningKey = tuple[Hashable, ...]
_fastest: dict[TuningKey, Tile] = {}


def autotuning() -> bool:
    """Whether to time the rows of an entry, instead of taking the first. A CUDA graph that is being captured cannot be timed."""
    if os.environ.get("HF_TANHMAX_AUTOTUNE", "0") != "1":
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def adds_atomically() -> bool:
    """Whether the backward pass may add dQ up in no certain order (HF_TANHMAX_ATOMIC=1), which torch's deterministic mode forbids."""
    return os.environ.get("HF_TANHMAX_ATOMIC", "0") == "1" and not torch.are_deterministic_algorithms_enabled()


def fastest(key: TuningKey, rows: Sequence[Tile], run: Callable[[Tile], None], timer: Callable[[Callable[[], None]], float]) -> Tile:
    """The tile with which `run` takes the least time; one with which the kernel does not compile or start is left out.

    Args:
        key: what the answer is remembered for; the kernel's name comes first.
        rows: the tiles.
        run: launches the kernel with a tile.
        timer: measures a call.

    Raises:
        RuntimeError: the kernel runs with none of them; the cause is the error of the last.
        torch.OutOfMemoryError, torch.AcceleratorError: there is no room, or the device is lost, with whichever tile.
    """
    if key not in _fastest:
        outcomes = {tile: _time_of(key, tile, run, timer) for tile in rows}
        times = {tile: outcome for tile, outcome in outcomes.items() if not isinstance(outcome, Exception)}
        if not times:
            raise RuntimeError(
                f"none of the {len(rows)} tiles of the {key[0]} kernel runs on this GPU; HF_TANHMAX_AUTOTUNE=0 takes the first of them and "
                "raises what stops it"
            ) from [outcome for outcome in outcomes.values() if isinstance(outcome, Exception)][-1]
        _fastest[key] = min(times, key=times.__getitem__)
    return _fastest[key]


def _time_of(key: TuningKey, tile: Tile, run: Callable[[Tile], None], timer: Callable[[Callable[[], None]], float]) -> float | Exception:
    """The time that a tile takes, or what the kernel raises with it."""
    triton_error = import_module("triton.errors").TritonError  # where this runs there is a Triton
    try:
        return timer(lambda: run(tile))
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (triton_error, RuntimeError) as error:  # the compiler's passes raise the latter
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()  # raises if the device is lost, of which Triton itself says RuntimeError
        reason = " ".join(str(error).split())[:200]
        logging.getLogger(__name__).warning(f"the {key[0]} kernel is not timed with {tile}: {type(error).__name__}: {reason}")
        return error


def length_bucket(length: int) -> int:
    """The length that a choice is remembered for: a power of two between 512 and 8192, so that there are at most five."""
    return max(512, min(8192, 1 << max(length - 1, 0).bit_length()))


if triton_missing() is None:
    # Not by import statements: Transformers has everybody install whatever a file imports.
    triton = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")

    # hf_tanhmax/kernels/primitives.py
    r"""Steps that the kernels share: tiles in, which keys a row sees, scores, exponents, the gradient of the scores.

    The alphabet inside kernels: `i_` a first index, `o_` offsets from it, `p_` a pointer, `m_` a mask, `b_` a block of values.

    Scores are held in units of log 2, :math:`x = a \log_2 e`, and negative exponents as :math:`y = \log_2 p - x`, so that the two exponentials
    of a score are :math:`2^x` and :math:`2^y`. A hidden score has both exponents at minus infinity: it adds exactly 0 to every sum. `POLARITY`
    is 1 for TanhMax (y = -x), 0 for softmax (no second exponential at all) and 2 for a polarity per head. If `ADDITIVE`, the pointer to a
    bias is one to an additive mask m instead, which is no part of the score a but is added to both exponents.

    `EXACT` is float32 that is multiplied without TF32. Its scores stay in natural units, as rounding log2(e) would cost digits of large scores,
    and its backward pass gets the row's shift and sum apart instead of L.
    """


    LOG2E = tl.constexpr(1.4426950408889634)
    LOG2E_REST = tl.constexpr(1.9259629911e-08)  # what rounding log2(e) to float32 leaves
    LN2 = tl.constexpr(0.6931471805599453)
    # Infinite scores become this large: they share the row as the definition wants, and no difference of two overflows.
    LIMIT = tl.constexpr(1e38)
    LOWEST = tl.constexpr(-200.0)  # natural exponent, at which the exponential is 0 in float32
    HIDDEN = tl.constexpr(HIDDEN_BELOW)
    NAN_STAYS = tl.constexpr(tl.PropagateNan.ALL)


    @triton.jit
    def load_tile(p_base, i_row, o_row, o_dim, stride, length, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, MASKED: tl.constexpr):
        """Rows `i_row + o_row` of a matrix whose last dimension is dense: [R, BLOCK_DIM]; 0 beyond its bounds."""
        p_tile = p_base + i_row.to(tl.int64) * stride + o_row[:, None] * stride + o_dim[None, :]
        if MASKED:
            b_tile = tl.load(p_tile, mask=(i_row + o_row < length)[:, None] & (o_dim < DIM)[None, :], other=0.0)
        elif BLOCK_DIM != DIM:
            b_tile = tl.load(p_tile, mask=(o_dim < DIM)[None, :], other=0.0)
        else:
            b_tile = tl.load(p_tile)
        return b_tile


    @triton.jit
    def load_rows(
        source, i_row, o_row, o_dim, stride, length, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, MASKED: tl.constexpr,
        DESCRIBED: tl.constexpr,
    ):  # fmt: skip
        """As `load_tile`, of a pointer, or (DESCRIBED) of a descriptor of [batch, heads, length, DIM], a batch entry and a head."""
        if DESCRIBED:
            descriptor, i_b, i_h = source
            b_tile = descriptor.load([i_b, i_h, i_row, 0]).reshape([o_row.shape[0], BLOCK_DIM])
        else:
            b_tile = load_tile(source, i_row, o_row, o_dim, stride, length, DIM, BLOCK_DIM, MASKED)
        return b_tile


    @triton.jit
    def key_span(
        i_m, queries, keys, offset, window, STARTS, ENDS, p_span,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    ):  # fmt: skip
        """Which keys a block of rows needs: `low, full_low, full_high, high`, multiples of BLOCK_N but for the last.

        Keys outside [low, high) are hidden from all rows, those in [full_low, full_high) from none.
        """
        last = tl.minimum(i_m + BLOCK_M, queries) - 1
        low, high = 0, keys
        full_low, full_high = 0, keys
        if CAUSAL:
            high = tl.minimum(high, last + offset + 1)
            full_high = tl.minimum(full_high, i_m + offset + 1)
        if WINDOW:
            low = tl.maximum(low, i_m + offset - window + 1)
            high = tl.minimum(high, last + offset + window)
            full_low = tl.maximum(full_low, last + offset - window + 1)
            full_high = tl.minimum(full_high, i_m + offset + window)
        return narrowed(low, full_low, full_high, high, i_m, last, STARTS, ENDS, p_span, BLOCK_N)


    @triton.jit
    def query_span(
        i_n, queries, keys, offset, window, STARTS, ENDS, p_span,
        BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    ):  # fmt: skip
        """Which rows see a block of keys, as `key_span` gives which keys a block of rows sees; multiples of BLOCK_M."""
        last = tl.minimum(i_n + BLOCK_N, keys) - 1
        low, high = 0, queries
        full_low, full_high = 0, queries
        if CAUSAL:
            low = tl.maximum(low, i_n - offset)
            full_low = tl.maximum(full_low, last - offset)
        if WINDOW:
            low = tl.maximum(low, i_n - offset - window + 1)
            high = tl.minimum(high, last - offset + window)
            full_low = tl.maximum(full_low, last - offset - window + 1)
            full_high = tl.minimum(full_high, i_n - offset + window)
        return narrowed(low, full_low, full_high, high, i_n, last, STARTS, ENDS, p_span, BLOCK_M)


    @triton.jit
    def narrowed(low, full_low, full_high, high, first, last, STARTS, ENDS, p_span, BLOCK: tl.constexpr):
        """A span within packed sequences and the span of a mask, its bounds at multiples of BLOCK (but `high`) and in order."""
        if STARTS is not None:
            low = tl.maximum(low, tl.load(STARTS + first))
            high = tl.minimum(high, tl.load(ENDS + last))
            full_low = tl.maximum(full_low, tl.load(STARTS + last))
            full_high = tl.minimum(full_high, tl.load(ENDS + first))
        if p_span is not None:
            low = tl.maximum(low, tl.load(p_span))
            high = tl.minimum(high, tl.load(p_span + 1))
            full_low = tl.maximum(full_low, tl.load(p_span + 2))
            full_high = tl.minimum(full_high, tl.load(p_span + 3))
        low = low // BLOCK * BLOCK
        full_low = tl.maximum(tl.cdiv(full_low, BLOCK) * BLOCK, low)
        full_high = tl.maximum(full_high // BLOCK * BLOCK, full_low)
        return low, full_low, full_high, high


    @triton.jit
    def blocks_of(low, full_low, full_high, high, BLOCK: tl.constexpr, EDGES: tl.constexpr):
        """How many blocks lie in the full range; or how many at its edges need a mask, and how many of these on its left."""
        if EDGES:
            left = tl.cdiv(tl.maximum(tl.minimum(full_low, high) - low, 0), BLOCK)
            count = left + tl.cdiv(tl.maximum(high - full_high, 0), BLOCK)
        else:
            left = 0
            count = (full_high - full_low) // BLOCK
        return count, left


    @triton.jit
    def block_start(i, left, low, full_low, full_high, BLOCK: tl.constexpr, EDGES: tl.constexpr):
        """Where the i-th block of `blocks_of` begins."""
        if EDGES:
            start = tl.where(i < left, low + i * BLOCK, full_high + (i - left) * BLOCK)
        else:
            start = full_low + i * BLOCK
        return start


    @triton.jit
    def visible(
        i_m, i_n, o_m, o_n, queries, keys, offset, window, b_start, b_end, p_keep, keep_m, keep_n,
        CAUSAL: tl.constexpr, WINDOW: tl.constexpr, PACKED: tl.constexpr,
    ):  # fmt: skip
        """True where the key takes part; `o_m`, `b_start` and `b_end` broadcast against `o_n`, either way around."""
        row, column = i_m + o_m, i_n + o_n
        m_seen = (row < queries) & (column < keys)
        row += offset
        if CAUSAL:
            m_seen &= column <= row
        if WINDOW:
            m_seen &= (row - column < window) & (column - row < window)
        if PACKED:
            m_seen &= (column >= b_start) & (column < b_end)
        if p_keep is not None:
            p_tile = p_keep + i_m.to(tl.int64) * keep_m + i_n.to(tl.int64) * keep_n + o_m * keep_m + o_n * keep_n
            m_seen &= tl.load(p_tile, mask=m_seen, other=0) != 0
        return m_seen


    @triton.jit
    def tanh(b_y):
        """By exponentials, and by the odd series below 0.3, where their quotient would lose digits."""
        b_abs = tl.abs(b_y)
        b_exp = tl.exp2(b_abs * (-2.0 * LOG2E))
        b_far = (1.0 - b_exp) / (1.0 + b_exp)
        b_sq = b_y * b_y
        b_near = b_abs * (1.0 + b_sq * (-1 / 3 + b_sq * (2 / 15 + b_sq * (-17 / 315 + b_sq * (62 / 2835)))))
        b_tanh = tl.where(b_abs < 0.3, b_near, b_far)
        return tl.where(b_y < 0.0, -b_tanh, b_tanh)


    @triton.jit
    def load_added(i_m, i_n, o_m, o_n, queries, keys, p_bias, bias_m, bias_n):
        """A tile of a bias or of an additive mask, in float32; 0 beyond its bounds."""
        p_tile = p_bias + i_m.to(tl.int64) * bias_m + i_n.to(tl.int64) * bias_n + o_m * bias_m + o_n * bias_n
        return tl.load(p_tile, mask=(i_m + o_m < queries) & (i_n + o_n < keys), other=0.0).to(tl.float32)


    @triton.jit
    def scores(
        b_qk, i_m, i_n, o_m, o_n, queries, keys, scale, cap, p_bias, bias_m, bias_n, CAPPED: tl.constexpr, EXACT: tl.constexpr,
        ADDITIVE: tl.constexpr, BOUNDED: tl.constexpr = False,
    ):  # fmt: skip
        """Scores, and the tanh of the softcap (only that, if there is one). The units are in `scale`, or in `cap` if there is a softcap.

        BOUNDED scores are known to be finite.
        """
        b_tanh = b_qk
        b_x = b_qk * scale
        if CAPPED:
            b_tanh = tanh(b_x)
            b_x = b_tanh * cap
        if p_bias is not None and not ADDITIVE:
            b_bias = load_added(i_m, i_n, o_m, o_n, queries, keys, p_bias, bias_m, bias_n)
            b_x += b_bias * (1.0 if EXACT else LOG2E)
        if not BOUNDED:
            b_x = tl.clamp(b_x, -LIMIT, LIMIT, propagate_nan=NAN_STAYS)
        return b_x, b_tanh


    @triton.jit
    def exponents(b_x, log_p, m_seen, POLARITY: tl.constexpr, MASKED: tl.constexpr):
        """The exponents x and y of the two exponentials, at minus infinity where the key is hidden."""
        b_y = -b_x
        if POLARITY == 2:
            b_y = log_p - b_x
        if MASKED:
            b_x = tl.where(m_seen, b_x, float("-inf"))
            b_y = tl.where(m_seen, b_y, float("-inf"))
        return b_x, b_y


    @triton.jit
    def faded(
        b_a, b_x, b_y, i_m, i_n, o_m, o_n, queries, keys, p_mask, mask_m, mask_n, ADDITIVE: tl.constexpr, EXACT: tl.constexpr,
    ):  # fmt: skip
        """The score that the sign comes from, and the exponents x and y with an additive mask, or as they are without.

        What the mask hides, has a score of 0 and exponents of minus infinity.
        """
        if ADDITIVE:
            b_m = load_added(i_m, i_n, o_m, o_n, queries, keys, p_mask, mask_m, mask_n)
            m_hidden = (b_m <= HIDDEN) | (b_x == float("-inf"))
            b_m = b_m * (1.0 if EXACT else LOG2E)
            b_a = tl.where(m_hidden, 0.0, b_a)
            b_x = tl.where(m_hidden, float("-inf"), b_x + b_m)
            b_y = tl.where(m_hidden, float("-inf"), b_y + b_m)
        else:
            b_a = b_x
        return b_a, b_x, b_y


    @triton.jit
    def power(b_x, EXACT: tl.constexpr):
        """The exponential in the units of the scores."""
        return exact_exp(b_x) if EXACT else tl.exp2(b_x)


    @triton.jit
    def exact_exp(b_x):
        """The exponential to the last digits of float32.

        `tl.exp` rounds the product of the exponent with log2(e), which costs digits where it is large. What that lost comes back here.
        """
        b_x = tl.maximum(b_x, LOWEST, propagate_nan=NAN_STAYS)  # an infinite product has no rest
        b_y = b_x * LOG2E
        b_rest = tl.fma(b_x, LOG2E, -b_y) + b_x * LOG2E_REST
        b_exp = tl.exp2(b_y)
        return tl.fma(b_exp, b_rest * LN2, b_exp)


    @triton.jit
    def difference(b_x, b_p, b_n, log_p, POLARITY: tl.constexpr, EXACT: tl.constexpr):
        """The signed weight: the difference of the exponentials, or (EXACT, polarity near 1) a product that keeps its digits around 0."""
        b_w = b_p - b_n
        if EXACT and POLARITY == 1:
            b_w = tanh(b_x) * (b_p + b_n)
        elif EXACT:
            b_w = tl.where(log_p > -LN2, tanh(b_x - 0.5 * log_p) * (b_p + b_n), b_w)
        return b_w


    @triton.jit
    def largest(b_x, b_y, POLARITY: tl.constexpr, MASKED: tl.constexpr, ADDITIVE: tl.constexpr):
        """The largest exponent of each row, [BLOCK_M]."""
        if POLARITY == 0:
            b_max = tl.max(b_x, 1)
        elif POLARITY == 1 and not MASKED and not ADDITIVE:
            b_max = tl.max(tl.abs(b_x), 1)
        else:
            b_max = tl.max(tl.maximum(b_x, b_y), 1)
        return b_max


    @triton.jit
    def survives(seed, i_bh, i_m, i_n, o_m, o_n, dropout_p):
        """True where dropout keeps a weight: a function of seed, batch entry, head, row and column alone (Philox, Salmon et al. 2011)."""
        o_row = (i_m + o_m + o_n * 0).to(tl.uint32)
        o_column = (i_n + o_n + o_m * 0).to(tl.uint32)
        b_bits, _, _, _ = tl.philox(seed, o_row, o_column, i_bh.to(tl.uint32) + o_row * 0, o_row * 0)
        return tl.uint_to_uniform_float(b_bits) >= dropout_p


    @triton.jit
    def score_gradient(
        b_a, b_x, b_y, b_shift, b_inverse, b_dp, b_delta, log_p, POLARITY: tl.constexpr, EXACT: tl.constexpr, OF_MASK: tl.constexpr,
    ):  # fmt: skip
        """Weights W, negative exponentials N (both divided by the denominator), and dA = C dP - W D, or (OF_MASK) dM = W dP - C D.

        The shift is L in units of log 2. If EXACT it is what the forward pass subtracted, and `b_inverse` one over the sum: a rounded L would
        cost float32 the digits that |L| has before the point, on both exponentials differently.
        """
        b_p = power(b_x - b_shift, EXACT)
        if EXACT:
            b_p = b_p * b_inverse
        if POLARITY == 0:
            b_n = b_p * 0.0
            b_w = b_p
            b_ds = b_p * (b_dp - b_delta)
        else:
            b_n = power(b_y - b_shift, EXACT)
            if EXACT:
                b_n = b_n * b_inverse
            b_w = difference(b_a, b_p, b_n, log_p, POLARITY, EXACT)
            if OF_MASK:
                b_ds = b_w * b_dp - (b_p + b_n) * b_delta
            else:
                b_ds = (b_p + b_n) * b_dp - b_w * b_delta
        return b_w, b_n, b_ds


    @triton.jit
    def row_statistics(LSE, STATS, i_row, rows, m_row):
        """What `score_gradient` needs of some rows: shift, and inverse sum (1 where L says it all); rows beyond the end weigh nothing."""
        if STATS is not None:
            b_shift = tl.load(STATS + i_row, mask=m_row, other=0.0)
            b_inverse = tl.load(STATS + rows + i_row, mask=m_row, other=0.0)
        else:
            b_shift = tl.load(LSE + i_row, mask=m_row, other=float("inf")) * LOG2E
            b_inverse = b_shift
        return b_shift, b_inverse


# hf_tanhmax/kernels/layout.py
"""What of a call is no tensor, and the launch arguments that follow from it: found out once, as all layers of a model are called alike."""


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


if triton_missing() is None:
    # Not by import statements: Transformers has everybody install whatever a file imports.
    do_bench = importlib.import_module("triton.testing").do_bench
    TensorDescriptor = importlib.import_module("triton.tools.tensor_descriptor").TensorDescriptor
    triton = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")

    # hf_tanhmax/kernels/shift.py
    r"""A shift that is known before the first score, so that the forward loop needs neither a running maximum nor a rescaling.

    By Cauchy and Schwarz no score of row i is larger than :math:`B_i = s |q_i| \max_j |k_j|` (or than its softcap). As cosh is at least 1, the
    sum of a row at polarity 1 cannot vanish, and the shift may be any number with which nothing overflows: in units of log 2,
    :math:`\max(0, \lceil B_i - 60 \rceil)`. Exponents then are at most 60. Of the two exponentials of a score the larger is at least 1 before
    the shift, so their difference is lost nowhere while B is at most 140; up to 92 neither of the two underflows, as the polynomial needs.

    A block of rows whose bound is larger (or not a number) walks with the running maximum instead. So does one whose sums have come out
    infinite or not a number, in which values beyond 1e15 or not finite took part: its result is the running maximum's, whatever that is.

    The polynomial gives both exponentials of one score in four without the special-function unit: :math:`x = i + f` with an integer i and
    :math:`|f| \le 1/2`, :math:`2^{\pm f} \approx E(f^2) \pm f O(f^2)`, and i goes into the exponent bits. As both come from the same E and O,
    their difference keeps its sign and its relative error (1e-4, below the rounding to bfloat16) down to the smallest scores. The coefficients
    are the minimax ones for the relative error of degree 3 with E(0) = 1.
    """


    INTERPRETED = tl.constexpr(interpreted())
    NORM_BLOCK = tl.constexpr(128)  # keys whose largest norm is one number
    HIGHEST = tl.constexpr(60.0)  # exponent: 2^60 times the values and their number stays far below float32's 2^128
    FURTHEST, FURTHEST_POLYNOMIAL = tl.constexpr(140.0), tl.constexpr(92.0)  # bounds
    SLACK = tl.constexpr(1.002)  # operands that are rounded to TF32 grow by up to 2^-11 each
    EVEN, ODD_1, ODD_3 = tl.constexpr(0.242210972), tl.constexpr(0.693282929), tl.constexpr(0.0550089297)
    # 1.5 * 2^23: a float32 to which it is added is rounded, with the integer in its lowest bits. Bits that a shift by 23 leaves are 0.
    ROUNDER = tl.constexpr(12582912.0)


    @triton.jit(do_not_specialize=["k_b", "k_h", "k_n", "keys", "kv_heads"])
    def norm_kernel(
        K, NORMS, k_b, k_h, k_n, keys, kv_heads, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, ALIGN: tl.constexpr, BLOCK_N: tl.constexpr
    ):  # fmt: skip
        """The largest squared norm of each block of BLOCK_N keys, [batch * kv_heads, blocks] in float32; infinite if one is not a number."""
        blocks = tl.cdiv(keys, BLOCK_N)
        i_bh, i_n = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK_N
        i_b, i_h = (i_bh // kv_heads).to(tl.int64), (i_bh % kv_heads).to(tl.int64)
        o_n, o_d = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_DIM)
        p_k = K + (i_b * k_b + i_h * k_h) * ALIGN
        b_k = load_tile(p_k, i_n, o_n, o_d, k_n * ALIGN, keys, DIM, BLOCK_DIM, MASKED=True).to(tl.float32)
        b_sq = tl.sum(b_k * b_k, 1)
        tl.store(NORMS + tl.program_id(0), tl.max(tl.where(b_sq == b_sq, b_sq, float("inf")), 0))


    @triton.jit
    def static_shift(b_q, NORMS, i_bh, keys, scale, cap, CAPPED: tl.constexpr, EXACT: tl.constexpr, POLYNOMIAL: tl.constexpr):
        """Shifts of some rows, [BLOCK_M], and whether all of these rows have a bound that allows them.

        The units are those of the scores: of log 2, or (EXACT) natural.
        """
        blocks = tl.cdiv(keys, NORM_BLOCK)
        b_norms = tl.zeros([NORM_BLOCK], tl.float32)
        for i in range(0, blocks, NORM_BLOCK):
            o_block = i + tl.arange(0, NORM_BLOCK)
            b_norms = tl.maximum(b_norms, tl.load(NORMS + i_bh.to(tl.int64) * blocks + o_block, mask=o_block < blocks, other=0.0))
        b_rows = b_q.to(tl.float32)
        b_bound = tl.sqrt(tl.sum(b_rows * b_rows, 1)) * (tl.sqrt(tl.max(b_norms, 0)) * SLACK * tl.abs(scale))
        if CAPPED:
            b_bound = tl.minimum(b_bound * cap, cap)
        unit = LN2 if EXACT else 1.0
        furthest = (FURTHEST_POLYNOMIAL if POLYNOMIAL else FURTHEST) * unit
        b_shift = tl.ceil(tl.maximum(b_bound - HIGHEST * unit, 0.0))
        return b_shift, tl.max(tl.where(b_bound <= furthest, 0, 1), 0) == 0


    @triton.jit
    def all_finite(b_acc):
        """Whether no element of a tile is infinite or not a number."""
        return tl.max(tl.max(tl.where(tl.abs(b_acc) < float("inf"), 0, 1), 1), 0) == 0


    def _float(number: float) -> str:
        """A float32 as PTX writes it."""
        return f"0f{struct.pack('>f', number).hex()}"


    # Four elements at a time: $0 to $3 take the positive exponentials, $4 to $7 the negative ones; $8 to $11 are x, $12 to $15 the shift.
    _BOTH_SPECIAL = "".join(
        f"""
    sub.f32 t, ${8 + i}, ${12 + i}; ex2.approx.ftz.f32 ${i}, t; add.f32 t, ${8 + i}, ${12 + i}; neg.f32 t, t; ex2.approx.ftz.f32 ${4 + i}, t;"""
        for i in range(3)
    )
    _BOTH_POLYNOMIAL = f"""
    sub.rn.f32 c, {_float(ROUNDER.value)}, $15; add.rn.f32 t, $11, c; sub.rn.f32 i, t, c; sub.rn.f32 f, $11, i; mul.rn.f32 g, f, f;
    fma.rn.f32 e, g, {_float(EVEN.value)}, {_float(1.0)}; fma.rn.f32 o, g, {_float(ODD_3.value)}, {_float(ODD_1.value)}; mul.rn.f32 o, o, f;
    add.rn.f32 p, e, o; sub.rn.f32 n, e, o; mov.b32 u, t; shl.b32 u, u, 23; mov.b32 v, c; shl.b32 v, v, 24;
    mov.b32 a, p; add.s32 a, a, u; mov.b32 $3, a; mov.b32 b, n; sub.s32 b, b, u; add.s32 b, b, v; mov.b32 $7, b;
    """
    MIXED = tl.constexpr(f"{{ .reg .f32 t,c,i,f,g,e,o,p,n; .reg .b32 u,v,a,b;\n{_BOTH_SPECIAL}{_BOTH_POLYNOMIAL}}}")
    MIXED_OPERANDS = tl.constexpr(",".join(["=f"] * 8 + ["f"] * 8))


    @triton.jit
    def polynomial_pair(b_x, b_shift):
        """Both exponentials by the polynomial, step by step as the instructions above have it."""
        b_c = -b_shift + ROUNDER
        b_t = b_x + b_c
        b_f = b_x - (b_t - b_c)
        b_g = b_f * b_f
        b_even, b_odd = b_g * EVEN + 1.0, (b_g * ODD_3 + ODD_1) * b_f
        b_up = b_t.to(tl.int32, bitcast=True) << 23  # the integer less the shift
        b_down = (b_c.to(tl.int32, bitcast=True) << 24) - b_up  # less the integer, less the shift
        b_p = ((b_even + b_odd).to(tl.int32, bitcast=True) + b_up).to(tl.float32, bitcast=True)
        b_n = ((b_even - b_odd).to(tl.int32, bitcast=True) + b_down).to(tl.float32, bitcast=True)
        return b_p, b_n


    @triton.jit
    def mixed_pair(b_x, b_shift, o_column):
        """Both exponentials in units of log 2, of one element in four by the polynomial: which one, is up to the layout of the registers."""
        if INTERPRETED:
            b_p, b_n = polynomial_pair(b_x, b_shift)
            m_special = o_column % 4 != 3
            b_p = tl.where(m_special, tl.exp2(b_x - b_shift), b_p)
            b_n = tl.where(m_special, tl.exp2(-b_x - b_shift), b_n)
        else:
            b_p, b_n = tl.inline_asm_elementwise(
                MIXED, MIXED_OPERANDS, [b_x, b_shift], dtype=(tl.float32, tl.float32), is_pure=True, pack=4
            )  # fmt: skip
        return b_p, b_n


    # hf_tanhmax/kernels/forward.py
    r"""The forward kernel, and the kernel that finds out which blocks of a boolean mask are needed.

    One program computes BLOCK_M rows of one head. It walks the keys that its rows can see, block by block, with a running shift
    :math:`m = \max_k \max(x_k, y_k)`:

    .. math:: \ell = \sum_k 2^{x_k - m} + 2^{y_k - m}, \qquad O = \frac{1}{\ell} \sum_k (2^{x_k - m} - 2^{y_k - m}) V_k, \qquad
              L = (m + \log_2 \ell) \ln 2

    Blocks that all rows see are walked first, without a mask; then those at the edges, with one; hidden blocks are not touched. The difference
    of the exponentials is formed in float32 and rounded once, to the dtype of the values. Rows without a key get O = 0 and L = +inf.

    With NORMS the shift is a fixed one where the bound in `shift` allows it, and m stays what it is.
    """


    # Run-time integers: a new length, stride or number of heads compiles nothing anew.
    STRIDES = [f"{tensor}_{dim}" for tensor, dims in {"q": "bhm", "k": "bhn", "v": "bhn", "span": "bhm"}.items() for dim in dims]
    STRIDES += [f"{tensor}_{dim}" for tensor in ("bias", "keep") for dim in "bhmn"]
    RUNTIME = [*STRIDES, "queries", "keys", "heads", "groups", "rows", "offset", "window"]


    @triton.jit(do_not_specialize=RUNTIME)
    def forward_kernel(
        Q, K, V, LOG_P, BIAS, KEEP, SPANS, STARTS, ENDS, SEED, O, LSE, STATS, NORMS,
        q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, bias_b, bias_h, bias_m, bias_n, keep_b, keep_h, keep_m, keep_n, span_b, span_h, span_m,
        queries, keys, heads, groups, rows, offset, window, scale, cap, dropout_p,
        DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, ALIGN: tl.constexpr,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, POLARITY: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
        CAPPED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ADDITIVE: tl.constexpr, POLYNOMIAL: tl.constexpr,
        DESCRIBED: tl.constexpr,
    ):  # fmt: skip
        """Output [batch, queries, heads, VALUE_DIM] and L [batch, heads, queries]; q, k, v by their strides over ALIGN.

        STATS [2, rows], if wanted, are the shift and one over the sum of each of the `rows` = batch * heads * queries rows. NORMS are those of
        `shift.norm_kernel`, where the shift is to be a fixed one; POLYNOMIAL is then for the exponentials of one score in four. If DESCRIBED, K
        and V are tensor descriptors of [batch, heads, keys, DIM or VALUE_DIM], with blocks of [1, 1, BLOCK_N, BLOCK_DIM or BLOCK_VALUE].
        """
        blocks = tl.cdiv(queries, BLOCK_M)
        i_m = (blocks - 1 - tl.program_id(0) % blocks) * BLOCK_M  # under a causal mask the last rows have the most to do, so they start
        i_bh = tl.program_id(0) // blocks
        i_b, i_h = (i_bh // heads).to(tl.int64), i_bh % heads
        i_kv = i_h // groups
        o_m, o_n, o_d, o_v = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_VALUE)

        if DESCRIBED:
            p_k, p_v = (K, i_b.to(tl.int32), i_kv), (V, i_b.to(tl.int32), i_kv)
        else:
            p_k = K + (i_b * k_b + i_kv.to(tl.int64) * k_h) * ALIGN
            p_v = V + (i_b * v_b + i_kv.to(tl.int64) * v_h) * ALIGN
        p_bias, p_keep, p_span = BIAS, KEEP, SPANS
        if BIAS is not None:
            p_bias = BIAS + i_b * bias_b + i_h.to(tl.int64) * bias_h
        if KEEP is not None:
            p_keep = KEEP + i_b * keep_b + i_h.to(tl.int64) * keep_h
            p_span = SPANS + i_b * span_b + i_h.to(tl.int64) * span_h + (i_m // BLOCK_M).to(tl.int64) * span_m
        b_start, b_end = 0, 0
        if STARTS is not None:
            b_start = tl.load(STARTS + i_m + o_m, mask=i_m + o_m < queries, other=0)[:, None]
            b_end = tl.load(ENDS + i_m + o_m, mask=i_m + o_m < queries, other=0)[:, None]
        log_p, seed = 0.0, 0
        if POLARITY == 2:
            log_p = tl.load(LOG_P + i_h)
        if DROPOUT:
            seed = tl.load(SEED)

        b_q = load_tile(
            Q + (i_b * q_b + i_h.to(tl.int64) * q_h) * ALIGN, i_m, o_m, o_d, q_m * ALIGN, queries, DIM, BLOCK_DIM, MASKED=True
        )  # fmt: skip
        spans = key_span(i_m, queries, keys, offset, window, STARTS, ENDS, p_span, BLOCK_M, BLOCK_N, CAUSAL, WINDOW)
        b_max = tl.full([BLOCK_M], -1e38 if POLARITY != 1 or ADDITIVE else 0.0, tl.float32)
        b_sum = tl.zeros([BLOCK_M], tl.float32)
        b_acc = tl.zeros([BLOCK_M, BLOCK_VALUE], tl.float32)
        done = False
        if NORMS is not None:
            i_head = i_b.to(tl.int32) * (heads // groups) + i_kv
            b_shift, done = static_shift(b_q, NORMS, i_head, keys, scale, cap, CAPPED, STATS is not None, POLYNOMIAL)
            if done:
                b_acc, b_sum, b_max = walk(
                    b_q, b_acc, b_sum, b_shift, p_k, p_v, p_bias, p_keep, i_bh, i_m, o_m, o_n, o_d, o_v, k_n * ALIGN, v_n * ALIGN, bias_m,
                    bias_n, keep_m, keep_n, queries, keys, offset, window, spans, b_start, b_end, scale, cap, log_p, seed, dropout_p, DIM,
                    VALUE_DIM, BLOCK_DIM, BLOCK_VALUE, BLOCK_N, POLARITY, CAUSAL, WINDOW, STARTS is not None, CAPPED, DROPOUT, PRECISION,
                    ADDITIVE, EXACT=STATS is not None, STATIC=True, POLYNOMIAL=POLYNOMIAL, DESCRIBED=DESCRIBED,
                )  # fmt: skip
                done = all_finite(b_acc)
        if not done:
            b_max = tl.full([BLOCK_M], -1e38 if POLARITY != 1 or ADDITIVE else 0.0, tl.float32)
            b_acc, b_sum, b_max = walk(
                b_q, tl.zeros_like(b_acc), tl.zeros_like(b_sum), b_max, p_k, p_v, p_bias, p_keep, i_bh, i_m, o_m, o_n, o_d, o_v, k_n * ALIGN,
                v_n * ALIGN, bias_m, bias_n, keep_m, keep_n, queries, keys, offset, window, spans, b_start, b_end, scale, cap, log_p, seed,
                dropout_p, DIM, VALUE_DIM, BLOCK_DIM, BLOCK_VALUE, BLOCK_N, POLARITY, CAUSAL, WINDOW, STARTS is not None, CAPPED, DROPOUT,
                PRECISION, ADDITIVE, EXACT=STATS is not None, STATIC=False, POLYNOMIAL=False, DESCRIBED=DESCRIBED,
            )  # fmt: skip

        m_empty = b_sum == 0.0
        b_sum = tl.where(m_empty, 1.0, b_sum)
        b_out = b_acc * (1.0 / (b_sum * (1.0 - dropout_p)))[:, None]
        b_lse = b_max + tl.log(b_sum) if STATS is not None else (b_max + tl.log2(b_sum)) * LN2
        b_lse = tl.where(m_empty, float("inf"), b_lse)
        m_row = i_m + o_m < queries
        p_out = O + ((i_b * queries + i_m) * heads + i_h) * VALUE_DIM + o_m[:, None] * (heads * VALUE_DIM) + o_v[None, :]
        tl.store(p_out, b_out.to(O.dtype.element_ty), mask=m_row[:, None] & (o_v < VALUE_DIM)[None, :])
        p_row = i_bh.to(tl.int64) * queries + i_m + o_m
        tl.store(LSE + p_row, b_lse, mask=m_row)
        if STATS is not None:
            tl.store(STATS + p_row, b_max, mask=m_row)
            tl.store(STATS + rows + p_row, tl.where(m_empty, 0.0, 1.0 / b_sum), mask=m_row)


    @triton.jit
    def walk(
        b_q, b_acc, b_sum, b_max, p_k, p_v, p_bias, p_keep, i_bh, i_m, o_m, o_n, o_d, o_v, k_n, v_n, bias_m, bias_n, keep_m, keep_n, queries,
        keys, offset, window, spans, b_start, b_end, scale, cap, log_p, seed, dropout_p, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
        BLOCK_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, BLOCK_N: tl.constexpr, POLARITY: tl.constexpr, CAUSAL: tl.constexpr,
        WINDOW: tl.constexpr, PACKED: tl.constexpr, CAPPED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
        ADDITIVE: tl.constexpr, EXACT: tl.constexpr, STATIC: tl.constexpr, POLYNOMIAL: tl.constexpr, DESCRIBED: tl.constexpr,
    ):  # fmt: skip
        """Take all blocks of keys that the rows can see into the running sums: first those without a mask, then those with one."""
        low, full_low, full_high, high = spans
        for EDGES in tl.static_range(2):
            count, left = blocks_of(low, full_low, full_high, high, BLOCK_N, EDGES == 1)
            for i in range(count):
                i_n = block_start(i, left, low, full_low, full_high, BLOCK_N, EDGES == 1)
                b_acc, b_sum, b_max = attend(
                    b_q, b_acc, b_sum, b_max, p_k, p_v, p_bias, p_keep, i_bh, i_m, i_n, o_m, o_n, o_d, o_v, k_n, v_n, bias_m, bias_n, keep_m,
                    keep_n, queries, keys, offset, window, b_start, b_end, scale, cap, log_p, seed, dropout_p, DIM, VALUE_DIM, BLOCK_DIM,
                    BLOCK_VALUE, POLARITY, CAUSAL, WINDOW, PACKED, CAPPED, DROPOUT, PRECISION, ADDITIVE, MASKED=EDGES == 1, EXACT=EXACT,
                    STATIC=STATIC, POLYNOMIAL=POLYNOMIAL, DESCRIBED=DESCRIBED,
                )  # fmt: skip
        return b_acc, b_sum, b_max


    @triton.jit
    def attend(
        b_q, b_acc, b_sum, b_max, p_k, p_v, p_bias, p_keep, i_bh, i_m, i_n, o_m, o_n, o_d, o_v, k_n, v_n, bias_m, bias_n, keep_m, keep_n,
        queries, keys, offset, window, b_start, b_end, scale, cap, log_p, seed, dropout_p, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
        BLOCK_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, POLARITY: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
        PACKED: tl.constexpr, CAPPED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ADDITIVE: tl.constexpr,
        MASKED: tl.constexpr, EXACT: tl.constexpr, STATIC: tl.constexpr, POLYNOMIAL: tl.constexpr, DESCRIBED: tl.constexpr,
    ):  # fmt: skip
        """Take one block of keys into the running sums. STATIC: the shift `b_max` is not the largest exponent and does not move."""
        o_row, o_column = o_m[:, None], o_n[None, :]
        b_k = load_rows(p_k, i_n, o_n, o_d, k_n, keys, DIM, BLOCK_DIM, MASKED, DESCRIBED)  # [BLOCK_N, BLOCK_DIM]
        b_qk = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
        b_x, _ = scores(b_qk, i_m, i_n, o_row, o_column, queries, keys, scale, cap, p_bias, bias_m, bias_n, CAPPED, EXACT, ADDITIVE, STATIC)
        b_a = b_x
        m_seen = None
        if MASKED:
            m_seen = visible(
                i_m, i_n, o_row, o_column, queries, keys, offset, window, b_start, b_end, p_keep, keep_m, keep_n, CAUSAL, WINDOW, PACKED
            )  # fmt: skip
        b_x, b_y = exponents(b_x, log_p, m_seen, POLARITY, MASKED)
        b_a, b_x, b_y = faded(b_a, b_x, b_y, i_m, i_n, o_row, o_column, queries, keys, p_bias, bias_m, bias_n, ADDITIVE, EXACT)

        b_new = b_max
        if not STATIC:
            b_new = tl.maximum(b_max, largest(b_x, b_y, POLARITY, MASKED, ADDITIVE))
            b_shrink = power(b_max - b_new, EXACT)
        if POLYNOMIAL and not MASKED:
            b_w, b_n = mixed_pair(b_x, b_new[:, None] + tl.zeros_like(b_x), o_column)
        else:
            b_w = power(b_x - b_new[:, None], EXACT)
            if POLARITY != 0:
                b_n = power(b_y - b_new[:, None], EXACT)
        b_all = b_w
        if POLARITY != 0:
            b_all = b_w + b_n
            b_w = difference(b_a, b_w, b_n, log_p, POLARITY, EXACT)
        b_sum = tl.sum(b_all, 1) + (b_sum if STATIC else b_sum * b_shrink)
        if DROPOUT:
            b_w = tl.where(survives(seed, i_bh, i_m, i_n, o_row, o_column, dropout_p), b_w, 0.0)
        b_v = load_rows(p_v, i_n, o_n, o_v, v_n, keys, VALUE_DIM, BLOCK_VALUE, MASKED, DESCRIBED)  # [BLOCK_N, BLOCK_VALUE]
        b_acc = tl.dot(b_w.to(b_v.dtype), b_v, b_acc if STATIC else b_acc * b_shrink[:, None], input_precision=PRECISION)
        return b_acc, b_sum, b_new


    @triton.jit(do_not_specialize=["keep_b", "keep_h", "keep_r", "keep_c", "heads", "rows", "columns", "reach"])
    def span_kernel(
        KEEP, SPANS, keep_b, keep_h, keep_r, keep_c, heads, rows, columns, reach, DENSE: tl.constexpr, BLOCK_R: tl.constexpr,
        BLOCK_C: tl.constexpr,
    ):  # fmt: skip
        """For each block of mask rows, [batch, heads, blocks, 4]: from where to where any row keeps, and from where to where all rows keep.

        `reach` is how many columns one column of the mask stands for (1, or all of them where the mask has but one). DENSE names the dimension
        whose elements lie next to each other, 0 for rows and 1 for columns, so that threads read them so; -1 is neither.
        """
        blocks = tl.cdiv(rows, BLOCK_R)
        i_bh = tl.program_id(0) // blocks
        i_b, i_h = (i_bh // heads).to(tl.int64), (i_bh % heads).to(tl.int64)
        i_r = tl.program_id(0) % blocks * BLOCK_R
        o_r, o_c = tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_C)
        step_r = 1 if DENSE == 0 else keep_r
        step_c = 1 if DENSE == 1 else keep_c
        p_tile = KEEP + i_b * keep_b + i_h * keep_h + i_r.to(tl.int64) * keep_r + o_r[:, None] * step_r + o_c[None, :] * step_c
        b_first = tl.full([BLOCK_R], 0, tl.int32) + columns
        b_last = tl.full([BLOCK_R], 0, tl.int32)
        b_count = tl.full([BLOCK_R], 0, tl.int32)
        for i_c in range(0, columns, BLOCK_C):
            o_column = i_c + o_c[None, :]
            m_in = (i_r + o_r < rows)[:, None] & (o_column < columns)
            m_kept = tl.load(p_tile, mask=m_in, other=0) != 0
            p_tile += BLOCK_C * keep_c
            b_first = tl.minimum(b_first, tl.min(tl.where(m_kept, o_column, columns), 1))
            b_last = tl.maximum(b_last, tl.max(tl.where(m_kept, o_column + 1, 0), 1))
            b_count += tl.sum(m_kept.to(tl.int32), 1)
        m_row = i_r + o_r < rows
        holes = tl.max(tl.where(m_row & (b_count != b_last - b_first), 1, 0), 0)
        p_span = SPANS + tl.program_id(0).to(tl.int64) * 4
        tl.store(p_span, tl.min(tl.where(m_row, b_first, columns), 0) * reach)
        tl.store(p_span + 1, tl.max(tl.where(m_row, b_last, 0), 0) * reach)
        tl.store(p_span + 2, tl.max(tl.where(m_row, b_first, 0), 0) * reach)
        tl.store(p_span + 3, tl.where(holes == 0, tl.min(tl.where(m_row, b_last, columns), 0), 0) * reach)


    # hf_tanhmax/kernels/backward.py
    r"""The backward kernels. Nothing is added atomically unless the launcher is asked to, so every result is the same to the bit in every run.

    With :math:`P = 2^{x - L}`, :math:`N = 2^{y - L}`, :math:`W = P - N`, :math:`C = P + N`, :math:`dP = dO\,V^\top` and
    :math:`D = \mathrm{rowsum}(dO \circ O)`:

    .. math:: dV = W^\top dO, \quad dA = C \circ dP - W \circ D, \quad dQ = \alpha\, dA\, K, \quad dK = \alpha\, dA^\top Q, \quad
              \frac{dL}{d\log p} = -\sum_j N_j (dP_j + D)

    * `delta_kernel`: D, row by row, from the rounded output (float32 sums it exactly instead, in `query_kernel`);
    * `key_value_kernel`: one program owns a block of keys of one key head and walks the rows of all query heads of its group; if asked to, it
      adds its part of dQ to that of the others, in no certain order, and saves `query_kernel`, two matrix products and half the exponentials;
    * `query_kernel`: one program owns a block of rows and walks their keys; the gradient of log p comes along, a number per row;
    * `bias_kernel`: one program owns a tile of the bias, or of the additive mask (:math:`dM = W \circ dP - C \circ D`), and walks the batch
      entries and heads that share it.
    """


    @triton.jit(do_not_specialize=["batch", "heads", "queries"])
    def delta_kernel(O, GRAD, DELTA, batch, heads, queries, VALUE_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, BLOCK_M: tl.constexpr):
        """D [batch, heads, queries] from output and its gradient, both dense [batch, queries, heads, VALUE_DIM]."""
        o_row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)  # rows of [batch * queries * heads]
        o_v = tl.arange(0, BLOCK_VALUE)
        m_row = o_row < batch.to(tl.int64) * heads * queries
        p_tile = o_row[:, None] * VALUE_DIM + o_v[None, :]
        m_tile = m_row[:, None] & (o_v < VALUE_DIM)[None, :]
        b_out = tl.load(O + p_tile, mask=m_tile, other=0.0).to(tl.float32)
        b_grad = tl.load(GRAD + p_tile, mask=m_tile, other=0.0).to(tl.float32)
        i_h, i_bm = o_row % heads, o_row // heads
        p_delta = DELTA + ((i_bm // queries) * heads + i_h) * queries + i_bm % queries
        tl.store(p_delta, tl.sum(b_out * b_grad, 1), mask=m_row)


    @triton.jit(do_not_specialize=RUNTIME)
    def key_value_kernel(
        Q, K, V, LOG_P, BIAS, KEEP, SPANS, STARTS, ENDS, SEED, GRAD, LSE, STATS, DELTA, DK, DV, SUM_Q,
        q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, bias_b, bias_h, bias_m, bias_n, keep_b, keep_h, keep_m, keep_n, span_b, span_h, span_m,
        queries, keys, heads, groups, rows, offset, window, scale, cap, factor, dropout_p,
        DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, ALIGN: tl.constexpr,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, POLARITY: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
        CAPPED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ADDITIVE: tl.constexpr,
    ):  # fmt: skip
        """dK [batch, keys, key heads, DIM] and dV [.., VALUE_DIM], dense; SPANS are those of the transposed mask, by blocks of keys.

        SUM_Q, if dQ is to be added up, is a tensor descriptor of [batch, heads, queries, DIM] in float32, with blocks of [1, 1, BLOCK_M,
        BLOCK_DIM].
        """
        blocks = tl.cdiv(keys, BLOCK_N)
        i_n = tl.program_id(0) % blocks * BLOCK_N
        i_bkv = tl.program_id(0) // blocks
        kv_heads = heads // groups
        i_b, i_kv = (i_bkv // kv_heads).to(tl.int64), i_bkv % kv_heads
        o_m, o_n, o_d, o_v = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_VALUE)

        b_k = load_tile(K + (i_b * k_b + i_kv.to(tl.int64) * k_h) * ALIGN, i_n, o_n, o_d, k_n * ALIGN, keys, DIM, BLOCK_DIM, MASKED=True)
        b_v = load_tile(V + (i_b * v_b + i_kv.to(tl.int64) * v_h) * ALIGN, i_n, o_n, o_v, v_n * ALIGN, keys, VALUE_DIM, BLOCK_VALUE, True)
        b_dk = tl.zeros([BLOCK_N, BLOCK_DIM], tl.float32)
        b_dv = tl.zeros([BLOCK_N, BLOCK_VALUE], tl.float32)
        seed = 0
        if DROPOUT:
            seed = tl.load(SEED)
        for i_g in range(groups):
            i_h = i_kv * groups + i_g
            i_bh = (i_b * heads + i_h).to(tl.int32)
            p_q = Q + (i_b * q_b + i_h.to(tl.int64) * q_h) * ALIGN
            p_grad = GRAD + (i_b * queries * heads + i_h) * VALUE_DIM
            p_row = (i_b * heads + i_h) * queries
            p_bias, p_keep, p_span = BIAS, KEEP, SPANS
            if BIAS is not None:
                p_bias = BIAS + i_b * bias_b + i_h.to(tl.int64) * bias_h
            if KEEP is not None:
                p_keep = KEEP + i_b * keep_b + i_h.to(tl.int64) * keep_h
                p_span = SPANS + i_b * span_b + i_h.to(tl.int64) * span_h + (i_n // BLOCK_N).to(tl.int64) * span_m
            log_p = 0.0
            if POLARITY == 2:
                log_p = tl.load(LOG_P + i_h)
            low, full_low, full_high, high = query_span(
                i_n, queries, keys, offset, window, STARTS, ENDS, p_span, BLOCK_N, BLOCK_M, CAUSAL, WINDOW
            )  # fmt: skip
            if SUM_Q is not None:  # what keys beyond the last get is not stored, but would meet their zeros in dQ: 2^(0 - L) may be infinite
                full_high = tl.where(i_n + BLOCK_N > keys, full_low, full_high)
            for EDGES in tl.static_range(2):
                count, left = blocks_of(low, full_low, full_high, high, BLOCK_M, EDGES == 1)
                for i in range(count):
                    i_m = block_start(i, left, low, full_low, full_high, BLOCK_M, EDGES == 1)
                    b_q = load_tile(p_q, i_m, o_m, o_d, q_m * ALIGN, queries, DIM, BLOCK_DIM, EDGES == 1)
                    b_grad = load_tile(p_grad, i_m, o_m, o_v, heads * VALUE_DIM, queries, VALUE_DIM, BLOCK_VALUE, EDGES == 1)
                    if STATS is not None:  # summed in the order of the other kernels, whose exponents these must meet to the last digit
                        b_qk = tl.trans(tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION))
                        b_dp = tl.trans(tl.dot(b_grad, tl.trans(b_v), input_precision=PRECISION))
                    else:
                        b_qk = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION)  # [BLOCK_N, BLOCK_M]
                        b_dp = tl.dot(b_v, tl.trans(b_grad), input_precision=PRECISION)  # [BLOCK_N, BLOCK_M]
                    b_start, b_end = 0, 0
                    if STARTS is not None:
                        b_start = tl.load(STARTS + i_m + o_m, mask=i_m + o_m < queries, other=0)[None, :]
                        b_end = tl.load(ENDS + i_m + o_m, mask=i_m + o_m < queries, other=0)[None, :]
                    m_row = i_m + o_m < queries
                    b_shift, b_inverse = row_statistics(LSE, STATS, p_row + i_m + o_m, rows, m_row)
                    b_delta = tl.load(DELTA + p_row + i_m + o_m, mask=m_row, other=0.0)[None, :]
                    b_w, _, b_ds = tile_gradient(
                        b_qk, b_dp, b_shift[None, :], b_inverse[None, :], b_delta, p_bias, p_keep, i_bh, i_m, i_n, o_m[None, :], o_n[:, None],
                        bias_m, bias_n, keep_m, keep_n,
                        queries, keys, offset, window, b_start, b_end, scale, cap, log_p, seed, dropout_p, POLARITY, CAUSAL, WINDOW,
                        STARTS is not None, CAPPED, DROPOUT, ADDITIVE, MASKED=EDGES == 1, INNER=True, EXACT=STATS is not None,
                    )  # fmt: skip
                    b_dv = tl.dot(b_w.to(b_grad.dtype), b_grad, b_dv, input_precision=PRECISION)
                    b_dk = tl.dot(b_ds.to(b_q.dtype), b_q, b_dk, input_precision=PRECISION)
                    if SUM_Q is not None:
                        b_dq = tl.dot(tl.trans(b_ds.to(b_k.dtype)), b_k, input_precision=PRECISION) * factor
                        SUM_Q.atomic_add([i_b.to(tl.int32), i_h, i_m, 0], b_dq.reshape([1, 1, BLOCK_M, BLOCK_DIM]))

        p_dk = DK + ((i_b * keys + i_n) * kv_heads + i_kv) * DIM + o_n[:, None] * (kv_heads * DIM) + o_d[None, :]
        p_dv = DV + ((i_b * keys + i_n) * kv_heads + i_kv) * VALUE_DIM + o_n[:, None] * (kv_heads * VALUE_DIM) + o_v[None, :]
        m_key = (i_n + o_n < keys)[:, None]
        tl.store(p_dk, (b_dk * factor).to(DK.dtype.element_ty), mask=m_key & (o_d < DIM)[None, :])
        tl.store(p_dv, (b_dv * (1.0 / (1.0 - dropout_p))).to(DV.dtype.element_ty), mask=m_key & (o_v < VALUE_DIM)[None, :])


    @triton.jit(do_not_specialize=RUNTIME)
    def query_kernel(
        Q, K, V, LOG_P, BIAS, KEEP, SPANS, STARTS, ENDS, SEED, GRAD, LSE, STATS, DELTA, DQ, D_LOG_P,
        q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, bias_b, bias_h, bias_m, bias_n, keep_b, keep_h, keep_m, keep_n, span_b, span_h, span_m,
        queries, keys, heads, groups, rows, offset, window, scale, cap, factor, dropout_p,
        DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, ALIGN: tl.constexpr,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, POLARITY: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
        CAPPED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ADDITIVE: tl.constexpr, PASSES: tl.constexpr,
    ):  # fmt: skip
        """dQ [batch, queries, heads, DIM], dense, and the gradient of log p row by row, [batch, heads, queries], if D_LOG_P is given.

        With two PASSES the first one finds D as the sum of W dP, and writes it to DELTA: where W is nearly 1 for one key, D must meet that
        key's dP to the last digit, which a D from the rounded output does not.
        """
        blocks = tl.cdiv(queries, BLOCK_M)
        i_m = (blocks - 1 - tl.program_id(0) % blocks) * BLOCK_M
        i_bh = tl.program_id(0) // blocks
        i_b, i_h = (i_bh // heads).to(tl.int64), i_bh % heads
        i_kv = i_h // groups
        o_m, o_n, o_d, o_v = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_VALUE)
        m_row = i_m + o_m < queries

        p_k = K + (i_b * k_b + i_kv.to(tl.int64) * k_h) * ALIGN
        p_v = V + (i_b * v_b + i_kv.to(tl.int64) * v_h) * ALIGN
        p_bias, p_keep, p_span = BIAS, KEEP, SPANS
        if BIAS is not None:
            p_bias = BIAS + i_b * bias_b + i_h.to(tl.int64) * bias_h
        if KEEP is not None:
            p_keep = KEEP + i_b * keep_b + i_h.to(tl.int64) * keep_h
            p_span = SPANS + i_b * span_b + i_h.to(tl.int64) * span_h + (i_m // BLOCK_M).to(tl.int64) * span_m
        b_start, b_end = 0, 0
        if STARTS is not None:
            b_start = tl.load(STARTS + i_m + o_m, mask=m_row, other=0)[:, None]
            b_end = tl.load(ENDS + i_m + o_m, mask=m_row, other=0)[:, None]
        log_p, seed = 0.0, 0
        if POLARITY == 2:
            log_p = tl.load(LOG_P + i_h)
        if DROPOUT:
            seed = tl.load(SEED)

        b_q = load_tile(
            Q + (i_b * q_b + i_h.to(tl.int64) * q_h) * ALIGN, i_m, o_m, o_d, q_m * ALIGN, queries, DIM, BLOCK_DIM, MASKED=True
        )  # fmt: skip
        p_grad = GRAD + (i_b * queries * heads + i_h) * VALUE_DIM
        b_grad = load_tile(p_grad, i_m, o_m, o_v, heads * VALUE_DIM, queries, VALUE_DIM, BLOCK_VALUE, MASKED=True)
        p_row = i_bh.to(tl.int64) * queries + i_m + o_m
        b_shift, b_inverse = row_statistics(LSE, STATS, p_row, rows, m_row)
        b_sum = tl.zeros([BLOCK_M], tl.float32)
        b_delta = b_sum
        if PASSES == 1:
            b_delta = tl.load(DELTA + p_row, mask=m_row, other=0.0)
        b_dq = tl.zeros([BLOCK_M, BLOCK_DIM], tl.float32)
        b_dlog = tl.zeros([BLOCK_M], tl.float32)

        low, full_low, full_high, high = key_span(
            i_m, queries, keys, offset, window, STARTS, ENDS, p_span, BLOCK_M, BLOCK_N, CAUSAL, WINDOW
        )  # fmt: skip
        for PASS in tl.static_range(PASSES):
            for EDGES in tl.static_range(2):
                count, left = blocks_of(low, full_low, full_high, high, BLOCK_N, EDGES == 1)
                for i in range(count):
                    i_n = block_start(i, left, low, full_low, full_high, BLOCK_N, EDGES == 1)
                    b_k = load_tile(p_k, i_n, o_n, o_d, k_n * ALIGN, keys, DIM, BLOCK_DIM, EDGES == 1)
                    b_v = load_tile(p_v, i_n, o_n, o_v, v_n * ALIGN, keys, VALUE_DIM, BLOCK_VALUE, EDGES == 1)
                    b_qk = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
                    b_dp = tl.dot(b_grad, tl.trans(b_v), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
                    b_w, b_dlog_p, b_ds = tile_gradient(
                        b_qk, b_dp, b_shift[:, None], b_inverse[:, None], b_delta[:, None], p_bias, p_keep, i_bh, i_m, i_n, o_m[:, None],
                        o_n[None, :], bias_m, bias_n, keep_m, keep_n, queries, keys, offset, window, b_start, b_end, scale, cap, log_p, seed,
                        dropout_p, POLARITY, CAUSAL, WINDOW, STARTS is not None, CAPPED, DROPOUT, ADDITIVE, MASKED=EDGES == 1,
                        INNER=True, EXACT=STATS is not None,
                    )  # fmt: skip
                    if PASS < PASSES - 1:
                        b_sum += tl.sum(b_w * b_dp, 1)
                    else:
                        b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
                        if D_LOG_P is not None:
                            b_dlog += tl.sum(b_dlog_p, 1)
            if PASS < PASSES - 1:
                b_delta = b_sum * (1.0 / (1.0 - dropout_p))
                tl.store(DELTA + p_row, b_delta, mask=m_row)

        p_dq = DQ + ((i_b * queries + i_m) * heads + i_h) * DIM + o_m[:, None] * (heads * DIM) + o_d[None, :]
        tl.store(p_dq, (b_dq * factor).to(DQ.dtype.element_ty), mask=m_row[:, None] & (o_d < DIM)[None, :])
        if D_LOG_P is not None:
            tl.store(D_LOG_P + p_row, b_dlog, mask=m_row)


    @triton.jit(do_not_specialize=[*RUNTIME, "batch", "bias_batch", "bias_heads", "out_b", "out_h", "out_m", "out_n"])
    def bias_kernel(
        Q, K, V, LOG_P, BIAS, KEEP, SPANS, STARTS, ENDS, SEED, GRAD, LSE, STATS, DELTA, D_BIAS,
        q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, bias_b, bias_h, bias_m, bias_n, keep_b, keep_h, keep_m, keep_n, span_b, span_h, span_m,
        queries, keys, heads, groups, rows, offset, window, scale, cap, dropout_p, batch, bias_batch, bias_heads, out_b, out_h, out_m, out_n,
        DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, ALIGN: tl.constexpr,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, POLARITY: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
        CAPPED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, ADDITIVE: tl.constexpr,
        SHARED_M: tl.constexpr, SHARED_N: tl.constexpr,
    ):  # fmt: skip
        """The gradient of the bias in float32, by strides `out_`; where rows (or keys) share a bias, a partial sum per block of them."""
        blocks_n = tl.cdiv(keys, BLOCK_N)
        blocks = tl.cdiv(queries, BLOCK_M) * blocks_n
        i_m = tl.program_id(0) % blocks // blocks_n * BLOCK_M
        i_n = tl.program_id(0) % blocks_n * BLOCK_N
        i_out_b, i_out_h = tl.program_id(0) // blocks // bias_heads, tl.program_id(0) // blocks % bias_heads
        o_m, o_n, o_d, o_v = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_VALUE)
        m_row = i_m + o_m < queries
        b_start, b_end, seed = 0, 0, 0
        if STARTS is not None:
            b_start = tl.load(STARTS + i_m + o_m, mask=m_row, other=0)[:, None]
            b_end = tl.load(ENDS + i_m + o_m, mask=m_row, other=0)[:, None]
        if DROPOUT:
            seed = tl.load(SEED)

        b_sum = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        shared_heads = heads // bias_heads  # 1, or all of them
        for i in range(batch // bias_batch * shared_heads):
            i_b, i_h = (i_out_b + i // shared_heads).to(tl.int64), i_out_h + i % shared_heads
            i_bh = (i_b * heads + i_h).to(tl.int32)
            i_kv = (i_h // groups).to(tl.int64)
            p_keep, p_span = KEEP, SPANS
            if KEEP is not None:
                p_keep = KEEP + i_b * keep_b + i_h.to(tl.int64) * keep_h
                p_span = SPANS + i_b * span_b + i_h.to(tl.int64) * span_h + (i_m // BLOCK_M).to(tl.int64) * span_m
            low, _full_low, _full_high, high = key_span(
                i_m, queries, keys, offset, window, STARTS, ENDS, p_span, BLOCK_M, BLOCK_N, CAUSAL, WINDOW
            )  # fmt: skip
            if (i_n >= low) & (i_n < high):
                log_p = 0.0
                if POLARITY == 2:
                    log_p = tl.load(LOG_P + i_h)
                p_q = Q + (i_b * q_b + i_h.to(tl.int64) * q_h) * ALIGN
                p_grad = GRAD + (i_b * queries * heads + i_h) * VALUE_DIM
                b_q = load_tile(p_q, i_m, o_m, o_d, q_m * ALIGN, queries, DIM, BLOCK_DIM, MASKED=True)
                b_grad = load_tile(p_grad, i_m, o_m, o_v, heads * VALUE_DIM, queries, VALUE_DIM, BLOCK_VALUE, MASKED=True)
                b_k = load_tile(K + (i_b * k_b + i_kv * k_h) * ALIGN, i_n, o_n, o_d, k_n * ALIGN, keys, DIM, BLOCK_DIM, MASKED=True)
                b_v = load_tile(V + (i_b * v_b + i_kv * v_h) * ALIGN, i_n, o_n, o_v, v_n * ALIGN, keys, VALUE_DIM, BLOCK_VALUE, MASKED=True)
                p_row = i_bh.to(tl.int64) * queries + i_m + o_m
                b_shift, b_inverse = row_statistics(LSE, STATS, p_row, rows, m_row)
                b_delta = tl.load(DELTA + p_row, mask=m_row, other=0.0)[:, None]
                b_qk = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
                b_dp = tl.dot(b_grad, tl.trans(b_v), input_precision=PRECISION)
                _b_w, _b_dlog_p, b_ds = tile_gradient(
                    b_qk, b_dp, b_shift[:, None], b_inverse[:, None], b_delta, BIAS + i_b * bias_b + i_h.to(tl.int64) * bias_h, p_keep, i_bh,
                    i_m, i_n, o_m[:, None],
                    o_n[None, :], bias_m, bias_n, keep_m, keep_n, queries, keys, offset, window, b_start, b_end, scale, cap, log_p, seed,
                    dropout_p, POLARITY, CAUSAL, WINDOW, STARTS is not None, CAPPED, DROPOUT, ADDITIVE, MASKED=True, INNER=False,
                    EXACT=STATS is not None,
                )  # fmt: skip
                b_sum += b_ds

        p_out = D_BIAS + i_out_b.to(tl.int64) * out_b + i_out_h.to(tl.int64) * out_h
        i_row = (i_m // BLOCK_M).to(tl.int64) if SHARED_M else i_m.to(tl.int64)
        i_column = (i_n // BLOCK_N).to(tl.int64) if SHARED_N else i_n.to(tl.int64)
        p_out += i_row * out_m + i_column * out_n
        m_column = i_n + o_n < keys
        if SHARED_M and SHARED_N:
            tl.store(p_out, tl.sum(tl.sum(b_sum, 1), 0))
        elif SHARED_M:
            tl.store(p_out + o_n * out_n, tl.sum(b_sum, 0), mask=m_column)
        elif SHARED_N:
            tl.store(p_out + o_m * out_m, tl.sum(b_sum, 1), mask=m_row)
        else:
            tl.store(p_out + o_m[:, None] * out_m + o_n[None, :] * out_n, b_sum, mask=m_row[:, None] & m_column[None, :])


    @triton.jit
    def tile_gradient(
        b_qk, b_dp, b_shift, b_inverse, b_delta, p_bias, p_keep, i_bh, i_m, i_n, o_m, o_n, bias_m, bias_n, keep_m, keep_n, queries, keys,
        offset, window,
        b_start, b_end, scale, cap, log_p, seed, dropout_p, POLARITY: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
        PACKED: tl.constexpr, CAPPED: tl.constexpr, DROPOUT: tl.constexpr, ADDITIVE: tl.constexpr, MASKED: tl.constexpr, INNER: tl.constexpr,
        EXACT: tl.constexpr,
    ):  # fmt: skip
        """Of one tile, rows by keys or keys by rows: the weights as they met the values, the gradient of log p, and that of the scores.

        The gradient is that of the products of query and key (through the softcap) if INNER, else that of the scores behind the bias, or
        (ADDITIVE) that of the additive mask, in which W and C have changed places.
        """
        b_x, b_tanh = scores(b_qk, i_m, i_n, o_m, o_n, queries, keys, scale, cap, p_bias, bias_m, bias_n, CAPPED, EXACT, ADDITIVE)
        b_a = b_x
        m_seen = None
        if MASKED:
            m_seen = visible(
                i_m, i_n, o_m, o_n, queries, keys, offset, window, b_start, b_end, p_keep, keep_m, keep_n, CAUSAL, WINDOW, PACKED
            )  # fmt: skip
        b_x, b_y = exponents(b_x, log_p, m_seen, POLARITY, MASKED)
        b_a, b_x, b_y = faded(b_a, b_x, b_y, i_m, i_n, o_m, o_n, queries, keys, p_bias, bias_m, bias_n, ADDITIVE, EXACT)
        if DROPOUT:
            m_survives = survives(seed, i_bh, i_m, i_n, o_m, o_n, dropout_p)
            b_dp = tl.where(m_survives, b_dp * (1.0 / (1.0 - dropout_p)), 0.0)
        OF_MASK: tl.constexpr = ADDITIVE and not INNER
        b_w, b_n, b_ds = score_gradient(b_a, b_x, b_y, b_shift, b_inverse, b_dp, b_delta, log_p, POLARITY, EXACT, OF_MASK)
        b_dlog_p = -b_n * (b_dp + b_delta)
        if DROPOUT:
            b_w = tl.where(m_survives, b_w, 0.0)
        if CAPPED and INNER:
            b_ds = b_ds * (1.0 - b_tanh * b_tanh)
        return b_w, b_dlog_p, b_ds


    # hf_tanhmax/kernels/decode.py
    r"""Decoding: a few queries against many keys, which are read once, by as many programs as the GPU has room for.

    * `decode_kernel`: the query heads of a group, and all their queries, are the rows of one tile, so that a key head is read once for all of
      them. The keys that they can see are split into chunks, one a program, and each program leaves its own result :math:`(O_s, L_s)`.
    * `combine_kernel`: :math:`\sum_k \cosh` adds up over the chunks, so they merge as those of softmax do:

    .. math:: L = \log \sum_s e^{L_s}, \qquad O = \sum_s e^{L_s - L} O_s

    * `range_kernel`: from where to where a boolean mask keeps any key, so that the padding on the left and the unused end of a static cache
      are not read.

    Which keys are seen is found out on the GPU, and grids are made of sizes alone: a CUDA graph may be replayed as the cache fills. With a
    TABLE, the keys lie in blocks of PAGE keys anywhere in K and V, and are read where they lie.
    """


    DECODING = [stride for stride in STRIDES if not stride.startswith("span")]
    DECODING += ["range_b", "table_b", "batch", "queries", "keys", "heads", "groups", "splits", "chunks", "offset", "window", "shortest"]
    DECODING += ["ragged"]


    @triton.jit(do_not_specialize=DECODING)
    def decode_kernel(
        Q, K, V, LOG_P, BIAS, KEEP, RANGES, TABLE, BOUNDS, OUT, LSE,
        q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, bias_b, bias_h, bias_m, bias_n, keep_b, keep_h, keep_m, keep_n, range_b, table_b,
        batch, queries, keys, heads, groups, splits, chunks, offset, window, shortest, ragged, scale, cap,
        DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, ALIGN: tl.constexpr,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, POLARITY: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
        CAPPED: tl.constexpr, PRECISION: tl.constexpr, ADDITIVE: tl.constexpr, EXACT: tl.constexpr, PAGE: tl.constexpr, PARTIAL: tl.constexpr,
    ):  # fmt: skip
        """OUT [splits, batch, queries, heads, VALUE_DIM] and LSE [splits, batch, queries, heads]; q, k, v by their strides over ALIGN.

        A row without a key gets L = +inf; if PARTIAL it gets -inf, its share of the whole, and no output. With a TABLE the first stride of k
        and v is that from block to block, and BOUNDS [batch + 1] say where the keys of each entry begin; `ragged` is 1 if the rows of the
        table do so too, and 0 if they lie `table_b` apart.
        """
        rows = groups * queries
        blocks = tl.cdiv(rows, BLOCK_M)
        i_s = tl.program_id(0) % splits
        i_r = tl.program_id(0) // splits % blocks * BLOCK_M
        i_bkv = tl.program_id(0) // splits // blocks
        kv_heads = heads // groups
        i_b, i_kv = (i_bkv // kv_heads).to(tl.int64), (i_bkv % kv_heads).to(tl.int64)
        o_r, o_n, o_d, o_v = i_r + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_VALUE)
        m_row = o_r < rows
        o_m = tl.where(m_row, o_r % queries, queries)
        o_h = i_kv * groups + o_r // queries

        p_table = TABLE
        if TABLE is not None:
            first = tl.load(BOUNDS + i_b).to(tl.int64)
            keys = (tl.load(BOUNDS + i_b + 1) - first).to(tl.int32)
            offset = keys - queries
            p_table = TABLE + i_b * table_b + first * ragged
            p_k, p_v = K + i_kv * k_h * ALIGN, V + i_kv * v_h * ALIGN
        else:
            p_k, p_v = K + (i_b * k_b + i_kv * k_h) * ALIGN, V + (i_b * v_b + i_kv * v_h) * ALIGN
        p_bias, p_keep, p_range = BIAS, KEEP, RANGES
        if BIAS is not None:
            p_bias = BIAS + i_b * bias_b + o_h[:, None] * bias_h
        if KEEP is not None:
            p_keep = KEEP + i_b * keep_b + o_h[:, None] * keep_h
        if RANGES is not None:
            p_range = RANGES + i_b * range_b
        log_p = 0.0
        if POLARITY == 2:
            log_p = tl.load(LOG_P + o_h, mask=m_row, other=0.0)[:, None]
        p_q = Q + (i_b * q_b + o_h * q_h + o_m * q_m)[:, None] * ALIGN + o_d[None, :]
        b_q = tl.load(p_q, mask=m_row[:, None] & (o_d < DIM)[None, :], other=0.0)
        b_max = tl.full([BLOCK_M], -1e38 if POLARITY != 1 or ADDITIVE else 0.0, tl.float32)
        b_sum = tl.zeros([BLOCK_M], tl.float32)
        b_acc = tl.zeros([BLOCK_M, BLOCK_VALUE], tl.float32)

        low, high = seen_keys(queries, keys, offset, window, p_range, chunks, CAUSAL, WINDOW)
        chunk = tl.maximum(tl.cdiv(tl.maximum(high - low, 0), splits), shortest)
        chunk = tl.cdiv(chunk, BLOCK_N) * BLOCK_N
        start = low + i_s * chunk
        end = tl.minimum(start + chunk, high)
        i_m = i_s * 0
        for i in range(tl.cdiv(tl.maximum(end - start, 0), BLOCK_N)):
            i_n = start + i * BLOCK_N
            if TABLE is not None:
                o_key = i_n + o_n
                b_block = tl.load(p_table + o_key // PAGE, mask=o_key < end, other=0).to(tl.int64)
                b_k = load_page(p_k, b_block * k_b * ALIGN + o_key % PAGE * k_n * ALIGN, o_d, o_key < end, DIM)  # [BLOCK_N, BLOCK_DIM]
                b_v = load_page(p_v, b_block * v_b * ALIGN + o_key % PAGE * v_n * ALIGN, o_v, o_key < end, VALUE_DIM)  # [BLOCK_N, BLOCK_VALUE]
            else:
                b_k = load_tile(p_k, i_n, o_n, o_d, k_n * ALIGN, end, DIM, BLOCK_DIM, MASKED=True)  # [BLOCK_N, BLOCK_DIM]
                b_v = load_tile(p_v, i_n, o_n, o_v, v_n * ALIGN, end, VALUE_DIM, BLOCK_VALUE, MASKED=True)  # [BLOCK_N, BLOCK_VALUE]
            b_qk = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
            o_row, o_column = o_m[:, None], o_n[None, :]
            b_x, _ = scores(b_qk, i_m, i_n, o_row, o_column, queries, end, scale, cap, p_bias, bias_m, bias_n, CAPPED, EXACT, ADDITIVE)
            b_a = b_x
            m_seen = visible(
                i_m, i_n, o_row, o_column, queries, end, offset, window, 0, 0, p_keep, keep_m, keep_n, CAUSAL, WINDOW, PACKED=False
            )  # fmt: skip
            b_x, b_y = exponents(b_x, log_p, m_seen, POLARITY, MASKED=True)
            b_a, b_x, b_y = faded(b_a, b_x, b_y, i_m, i_n, o_row, o_column, queries, end, p_bias, bias_m, bias_n, ADDITIVE, EXACT)
            b_new = tl.maximum(b_max, largest(b_x, b_y, POLARITY, MASKED=True, ADDITIVE=ADDITIVE))
            b_shrink = power(b_max - b_new, EXACT)
            b_w = power(b_x - b_new[:, None], EXACT)
            b_all = b_w
            if POLARITY != 0:
                b_n = power(b_y - b_new[:, None], EXACT)
                b_all = b_w + b_n
                b_w = difference(b_a, b_w, b_n, log_p, POLARITY, EXACT)
            b_sum = b_sum * b_shrink + tl.sum(b_all, 1)
            b_acc = tl.dot(b_w.to(b_v.dtype), b_v, b_acc * b_shrink[:, None], input_precision=PRECISION)
            b_max = b_new

        m_empty = b_sum == 0.0
        b_sum = tl.where(m_empty, 1.0, b_sum)
        b_out = b_acc * (1.0 / b_sum)[:, None]
        b_lse = b_max + tl.log(b_sum) if EXACT else (b_max + tl.log2(b_sum)) * LN2
        b_lse = tl.where(m_empty, float("-inf") if PARTIAL else float("inf"), b_lse)
        i_out = ((i_s.to(tl.int64) * batch + i_b) * queries + o_m) * heads + o_h
        tl.store(LSE + i_out, b_lse, mask=m_row)
        if PARTIAL:
            m_row = m_row & (m_empty == 0)
        p_out = OUT + i_out[:, None] * VALUE_DIM + o_v[None, :]
        tl.store(p_out, b_out.to(OUT.dtype.element_ty), mask=m_row[:, None] & (o_v < VALUE_DIM)[None, :])


    @triton.jit
    def seen_keys(queries, keys, offset, window, p_range, chunks, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
        """From where to where any of the queries can see keys."""
        low, high = 0, keys
        if CAUSAL:
            high = tl.minimum(high, queries + offset)
        if WINDOW:
            low = tl.maximum(low, offset - window + 1)
            high = tl.minimum(high, queries + offset + window - 1)
        if p_range is not None:
            o_c = tl.arange(0, 64)
            b_low = tl.zeros([64], tl.int32) + keys
            b_high = tl.zeros([64], tl.int32)
            for i in range(tl.cdiv(chunks, 64)):
                m_chunk = i * 64 + o_c < chunks
                p_chunk = p_range + (i * 64 + o_c) * 2
                b_low = tl.minimum(b_low, tl.where(m_chunk, tl.load(p_chunk, mask=m_chunk, other=0), keys))
                b_high = tl.maximum(b_high, tl.load(p_chunk + 1, mask=m_chunk, other=0))
            low = tl.maximum(low, tl.min(b_low, 0))
            high = tl.minimum(high, tl.max(b_high, 0))
        return low, high


    @triton.jit
    def load_page(p_base, o_row, o_dim, m_row, DIM: tl.constexpr):
        """Rows of a matrix that lie `o_row` elements from its base, [R, BLOCK_DIM]; 0 beyond its bounds."""
        return tl.load(p_base + o_row[:, None] + o_dim[None, :], mask=m_row[:, None] & (o_dim < DIM)[None, :], other=0.0)


    @triton.jit(do_not_specialize=["rows", "splits"])
    def combine_kernel(PARTS, LSES, O, LSE, rows, splits, VALUE_DIM: tl.constexpr, BLOCK_VALUE: tl.constexpr, BLOCK_S: tl.constexpr):
        """O [rows, VALUE_DIM] and LSE [rows] from PARTS [splits, rows, VALUE_DIM] and LSES [splits, rows]; one program a row."""
        i_row = tl.program_id(0).to(tl.int64)
        o_s, o_v = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_VALUE)
        b_max = tl.full([BLOCK_S], float("-inf"), tl.float32)
        for i in range(tl.cdiv(splits, BLOCK_S)):
            p_lse = LSES + (i * BLOCK_S + o_s).to(tl.int64) * rows + i_row
            b_max = tl.maximum(b_max, tl.load(p_lse, mask=i * BLOCK_S + o_s < splits, other=float("-inf")))
        top = tl.max(b_max, 0)
        shift = tl.where(top == float("-inf"), 0.0, top)
        b_sum = tl.zeros([BLOCK_S], tl.float32)
        b_acc = tl.zeros([BLOCK_S, BLOCK_VALUE], tl.float32)
        for i in range(tl.cdiv(splits, BLOCK_S)):
            i_part = (i * BLOCK_S + o_s).to(tl.int64) * rows + i_row
            b_lse = tl.load(LSES + i_part, mask=i * BLOCK_S + o_s < splits, other=float("-inf"))
            m_part = (b_lse != float("-inf"))[:, None] & (o_v < VALUE_DIM)[None, :]
            b_share = tl.exp(b_lse - shift)
            b_sum += b_share
            b_acc += b_share[:, None] * tl.load(PARTS + i_part[:, None] * VALUE_DIM + o_v[None, :], mask=m_part, other=0.0)
        total = tl.sum(b_sum, 0)
        empty = total == 0.0
        total = tl.where(empty, 1.0, total)
        tl.store(LSE + i_row, tl.where(empty, float("inf"), shift + tl.log(total)))
        b_out = tl.sum(b_acc, 0) * (1.0 / total)
        tl.store(O + i_row * VALUE_DIM + o_v, b_out.to(O.dtype.element_ty), mask=o_v < VALUE_DIM)


    @triton.jit(do_not_specialize=["keep_b", "keep_h", "keep_m", "keep_n", "heads", "queries", "keys", "chunks"])
    def range_kernel(KEEP, RANGES, keep_b, keep_h, keep_m, keep_n, heads, queries, keys, chunks, BLOCK_N: tl.constexpr):
        """For each chunk of BLOCK_N keys the first key that any row of the mask keeps, and the last plus 1: [batch, chunks, 2]."""
        i_b = (tl.program_id(0) // chunks).to(tl.int64)
        o_n = tl.program_id(0) % chunks * BLOCK_N + tl.arange(0, BLOCK_N)
        b_any = tl.zeros([BLOCK_N], tl.int32)
        for i in range(heads * queries):
            p_row = KEEP + i_b * keep_b + (i // queries).to(tl.int64) * keep_h + (i % queries).to(tl.int64) * keep_m
            b_any |= tl.load(p_row + o_n.to(tl.int64) * keep_n, mask=o_n < keys, other=0).to(tl.int32)
        p_range = RANGES + tl.program_id(0).to(tl.int64) * 2
        tl.store(p_range, tl.min(tl.where(b_any != 0, o_n, keys), 0))
        tl.store(p_range + 1, tl.max(tl.where(b_any != 0, o_n + 1, 0), 0))


    # hf_tanhmax/kernels/interpreter.py
    """Triton's interpreter, corrected where it differs from a GPU in silence, for as long as a kernel of ours is launched in it.

    * `tl.dot` multiplies the raw bits of bfloat16 operands, which it holds as uint16: they are widened first, and accumulated in float32.
    * A cast from float32 to bfloat16 cuts digits off: it rounds to nearest even here, as a GPU does.
    * Tensor descriptors cannot add, which the interpreter says: here they can.
    * A fused multiply-add rounds once, which that of Triton 3.6 does not.

    There is one interpreter in a process, so one thread at a time launches kernels of ours; what other threads interpret meanwhile meets the
    corrections too. Where kernels are compiled there is nothing to correct.
    """


    IN_INTERPRETER = not isinstance(forward_kernel, triton.JITFunction)
    ONE_AT_A_TIME = threading.RLock()


    @contextmanager
    def faithful() -> Iterator[None]:
        """Correct the interpreter for the duration of the context, which may be nested; it is also a decorator."""
        if not IN_INTERPRETER:
            yield
            return
        builder = import_module("triton.runtime.interpreter").InterpreterBuilder
        with ONE_AT_A_TIME:
            corrections = _corrections(builder.cast_impl, builder.create_fma)
            before = {name: vars(builder).get(name) for name in corrections}
            for name, correction in corrections.items():
                setattr(builder, name, correction)
            try:
                yield
            finally:
                for name, method in before.items():
                    if method is None:
                        delattr(builder, name)
                    else:
                        setattr(builder, name, method)


    def _corrections(cast: Any, multiply_add: Any) -> dict[str, Any]:
        """The methods of the interpreter to be replaced, by name; `cast` and `multiply_add` are its own, for all other dtypes."""
        # Not by import statements: whoever loads a published file would have to install what they name.
        np, ir = import_module("numpy"), import_module("triton._C.libtriton").ir
        TensorHandle = import_module("triton.runtime.interpreter").TensorHandle  # noqa: N806

        def _widened(handle: Any) -> Any:
            return (handle.data.astype(np.uint32) << 16).view(np.float32) if handle.dtype.scalar == tl.bfloat16 else handle.data

        def _dot(_builder: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
            with np.errstate(invalid="ignore", over="ignore"):  # a GPU says nothing of rows that overflow and are stored nowhere
                product = np.matmul(_widened(a), _widened(b), dtype=d.data.dtype)
            return TensorHandle(product + d.data, d.dtype.scalar)

        def _cast(builder: Any, source: Any, wanted: Any) -> Any:
            if source.dtype.scalar != tl.float32 or wanted.scalar != tl.bfloat16:
                return cast(builder, source, wanted)
            rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16()
            return TensorHandle(rounded.view(torch.int16).numpy().view(np.uint16), wanted.scalar)

        def _fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
            if z.data.dtype != np.float32:
                return multiply_add(builder, x, y, z)
            exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
            return TensorHandle(exact.astype(np.float32), z.dtype.scalar)

        def _reduce(builder: Any, kind: Any, descriptor: Any, value: Any, offsets: Any) -> None:
            if kind != ir.DESCRIPTOR_REDUCE_KIND.ADD:
                raise NotImplementedError(f"the interpreter's descriptors only add, but {kind} is wanted")
            pointers, mask = descriptor.materialize_pointers(offsets)
            builder.create_atomic_rmw(ir.ATOMIC_OP.FADD, pointers, value, mask, ir.MEM_SEMANTIC.RELAXED, None)

        return {"create_dot": _dot, "cast_impl": _cast, "create_fma": _fma, "create_descriptor_reduce": _reduce}


    # hf_tanhmax/kernels/launch.py
    """From tensors to kernels: layouts, which features a call needs, grids and results. Nothing here copies from host to device or waits."""


    # What a kernel is compiled for, besides its tile and which tensors there are.
    FEATURES = ("BLOCK_DIM", "BLOCK_VALUE", "POLARITY", "CAUSAL", "WINDOW", "CAPPED", "DROPOUT", "ADDITIVE")
    FARTHEST = 1 << 23  # a row stride in elements; offsets within a tile are 32-bit


    @dataclass
    class FusedProblem:
        """One attention call. Shapes are those of `tanhmax_attention`; `log_polarity` is `[heads]`, or None where `signed` says it all.

        `signed` without `log_polarity` is polarity 1, not signed is polarity 0 (softmax); `seed` is an int64 scalar on the device. `exact` is
        decided once, by the forward pass (`is_exact`): torch's setting may be another one when the gradient is computed. If `additive`, the
        bias is an additive mask: the two share a pointer.
        """

        query: Tensor
        key: Tensor
        value: Tensor
        log_polarity: Tensor | None
        signed: bool
        visibility: Visibility
        bias: Tensor | None
        scale: float
        softcap: float | None
        dropout_p: float
        seed: Tensor | None
        exact: bool
        additive: bool = False

        def __post_init__(self) -> None:
            self.query, self.key, self.value = (_rows(tensor) for tensor in (self.query, self.key, self.value))
            self.batch, self.heads, self.queries, self.dim = self.query.shape
            self.kv_heads, self.keys, self.value_dim = self.value.shape[1:]
            shape = (self.batch, self.heads, self.queries, self.keys)
            self.broad_bias = None if self.bias is None else self.bias.expand(shape)
            keep = self.visibility.keep
            self.broad_keep = None if keep is None else keep.view(torch.uint8).expand(shape)

        def run(self, kernel: Kernel, launch: Callable[[Tile], None]) -> None:
            """Launch a kernel with the tile that it is to take."""
            table = tiles(kernel, max(self.dim, self.value_dim), self.query.element_size(), capability(self.query.device))
            rows = tuple(tile for tile in table if self.fits(tile))
            if len(rows) > 1 and autotuning():
                seen, known = self.visibility, self.constants(rows[0])
                absent = tuple(item is None for item in (seen.keep, seen.segments, self.bias))
                compiled = tuple(known[name] for name in FEATURES)
                lengths = (length_bucket(self.queries), length_bucket(self.keys))
                key = (kernel, str(self.query.device), self.query.dtype, self.exact, *absent, *compiled, *lengths, rows)
                rows = (fastest(key, rows, launch, do_bench),)
            launch(rows[0])

        def fits(self, tile: Tile) -> bool:
            """Whether a row of the table is for a call like this one.

            A static shift wants polarity 1, no bias or additive mask (whose size nobody bounds) and weights that hold 2^60, which float16 does
            not; the polynomial wants weights that are rounded to bfloat16. A descriptor wants what `_describable` says. `reduced` has rows of
            its own.
            """
            if tile.described and not (self.alignment == ALIGN and _describable(self.key) and _describable(self.value)):
                return False
            if tile.polynomial and self.query.dtype != torch.bfloat16:
                return False
            if tile.reduced:
                return False
            bounded = self.signed and self.log_polarity is None and self.bias is None and self.query.dtype != torch.float16
            return bounded or not tile.static

        def reduced(self, *, log_polarity: bool) -> Tile | None:
            """The row with which one kernel does the whole backward pass, if the user asks for one, and there is one for this call.

            It adds dQ up in float32 in no certain order. It neither finds the gradient of log p, nor what exact float32 needs.
            """
            if log_polarity or self.exact or not adds_atomically() or self.dim % 4:
                return None
            rows = tiles("key_value", max(self.dim, self.value_dim), self.query.element_size(), capability(self.query.device))
            return next((tile for tile in rows if tile.reduced), None)

        def norms(self) -> Tensor:
            """The largest squared norms of the keys by blocks of `NORM_BLOCK`, float32 `[batch * kv_heads, blocks]`."""
            blocks = math.ceil(self.keys / NORM_BLOCK.value)
            norms = self.key.new_empty((self.batch * self.kv_heads, blocks), dtype=torch.float32)
            if norms.numel():
                strides = [stride // self.alignment for stride in self.row_strides[3:6]]
                block_dim = padded_size(self.dim)
                norm_kernel[norms.numel(),](
                    self.key, norms, *strides, self.keys, self.kv_heads, self.dim, block_dim, self.alignment, NORM_BLOCK.value, num_warps=8
                )  # fmt: skip
            return norms

        @cached_property
        def bounds(self) -> tuple[Tensor | None, Tensor | None]:
            """Where the packed sequence of each position begins and ends, int32 `[keys]`."""
            segments = self.visibility.segments
            if segments is None:
                return None, None
            starts = torch.searchsorted(segments, segments, out_int32=True)
            return starts, torch.searchsorted(segments, segments, right=True, out_int32=True)

        @cached_property
        def row_strides(self) -> tuple[int, ...]:
            """Strides of query, key and value by batch entry, head and row."""
            return tuple(stride for tensor in (self.query, self.key, self.value) for stride in tensor.stride()[:3])

        @cached_property
        def alignment(self) -> int:
            """What all strides and sizes are multiples of: `ALIGN`, or 1. It does not change with the lengths of dense tensors."""
            return self.layout.alignment

        @cached_property
        def layout(self) -> Layout:
            """What of a call is no tensor."""
            seen, nowhere = self.visibility, (0, 0, 0, 0)
            return Layout(
                (self.batch, self.heads, self.queries, self.dim),
                (self.kv_heads, self.keys, self.value_dim),
                self.row_strides,
                nowhere if self.broad_bias is None else self.broad_bias.stride(),
                nowhere if self.broad_keep is None else self.broad_keep.stride(),
                (seen.causal, seen.offset, seen.window),
                (self.scale, self.softcap, self.dropout_p),
                2 if self.log_polarity is not None else int(self.signed),
                self.query.dtype == torch.float32,
                self.exact,
                self.additive,
            )

        def arguments(self, tile: Tile, spans: Tensor | None) -> dict[str, Any]:
            """What every kernel takes."""
            starts, ends = self.bounds
            tensors = {**self.tensors, "SPANS": spans, "STARTS": starts, "ENDS": ends, "SEED": self.seed}
            for dim, name in enumerate(("span_b", "span_h", "span_m")):
                tensors[name] = 0 if spans is None or spans.shape[dim] == 1 else spans.stride(dim)  # type: ignore[assignment]
            return {**tensors, **launch_numbers(self.layout, tile)}

        @property
        def tensors(self) -> dict[str, Tensor | None]:
            """The tensors that every kernel takes, whatever its tile."""
            unit = 1.0 if self.exact else LOG2E.value
            log_p = None if self.log_polarity is None else self.log_polarity.float() * unit
            return {"Q": self.query, "K": self.key, "V": self.value, "BIAS": self.broad_bias, "KEEP": self.broad_keep, "LOG_P": log_p}

        def constants(self, tile: Tile) -> dict[str, Any]:
            """What a kernel is compiled for: no length is among it."""
            return launch_constants(self.layout, tile)

        def spans(self, block: int, *, transposed: bool = False) -> Tensor | None:
            """The spans of the mask by blocks of rows (or of keys), int32 `[batch or 1, heads or 1, blocks or 1, 4]`."""
            keep = self.visibility.keep
            if keep is None:
                return None
            reach = self.queries if transposed else self.keys
            mask = keep.view(torch.uint8)
            if transposed:
                mask = mask.transpose(2, 3)
            batch, heads, rows, columns = mask.shape
            blocks = math.ceil(rows / block)
            spans = mask.new_empty((batch, heads, blocks, 4), dtype=torch.int32)
            if spans.numel():
                span_kernel[batch * heads * blocks,](
                    mask, spans, *mask.stride(), heads, rows, columns, reach if columns == 1 else 1, DENSE=_dense_dimension(mask),
                    BLOCK_R=block, BLOCK_C=32, num_warps=8,
                )  # fmt: skip
            return spans


    def _dense_dimension(mask: Tensor) -> int:
        return 1 if mask.stride(3) == 1 else 0 if mask.stride(2) == 1 else -1


    def device_of(tensor: Tensor) -> AbstractContextManager[Any]:
        """Make the tensor's GPU the current one: Triton launches there, wherever the tensors are."""
        if tensor.device.type == "cpu":
            return nullcontext()
        return torch.get_device_module(tensor.device).device(tensor.device)


    def is_exact(tensor: Tensor) -> bool:
        """Whether a call is computed with all the digits of float32: torch multiplies so unless it has been told that TF32 will do.

        This attribute knows what either of torch's two ways to say so has said; the function of the older way raises once the newer was used.
        """
        return tensor.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32"


    @faithful()
    def launch_forward(problem: FusedProblem) -> tuple[Tensor, Tensor, Tensor]:
        """Output `[batch, heads, queries, value_dim]` (a transposed view of `[batch, queries, heads, value_dim]`), and L in float32.

        For float32 inputs that are multiplied exactly the third tensor is `[2, batch, heads, queries]`, the statistics that the backward pass
        needs; else it is empty.
        """
        output, lse, stats = outputs(problem.query, problem.value)
        if lse.numel() == 0:
            return output, lse, stats

        def _launch(tile: Tile) -> None:
            arguments = problem.arguments(tile, problem.spans(tile.rows))
            results = {"O": output.transpose(1, 2), "LSE": lse, "STATS": stats if stats.numel() else None}
            results["NORMS"] = problem.norms() if tile.static else None
            if tile.described:
                arguments |= {name: _described(arguments[name], tile.columns) for name in ("K", "V")}
            flags = {"POLYNOMIAL": tile.polynomial, "DESCRIBED": tile.described}
            forward_kernel[math.ceil(problem.queries / tile.rows) * problem.batch * problem.heads,](**arguments, **results, **flags)

        problem.run("forward", _launch)
        return output, lse, stats


    def _describable(tensor: Tensor) -> bool:
        """Whether the hardware's descriptors can tell of a tensor: 16-byte addresses and strides, none of these 0, and no empty dimension."""
        size = tensor.element_size()
        aligned = tensor.data_ptr() % 16 == 0 and all(stride > 0 and stride * size % 16 == 0 for stride in tensor.stride()[:3])
        return aligned and tensor.stride(3) == 1 and tensor.numel() > 0


    def _described(tensor: Tensor, columns: int) -> TensorDescriptor:
        """A descriptor of `[batch, heads, length, dim]` that loads `columns` rows of a head; what lies beyond its bounds is 0."""
        return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), [1, 1, columns, padded_size(tensor.shape[3])])


    def outputs(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Empty results in the layout of `launch_forward`."""
        lse = query.new_empty(query.shape[:3], dtype=torch.float32)
        stats = query.new_empty((2, *lse.shape) if is_exact(query) else (0,), dtype=torch.float32)
        return dense(query, value.shape[3]), lse, stats


    def dense(like: Tensor, dim: int) -> Tensor:
        """An empty `[batch, heads, length, dim]` that lies in memory as `[batch, length, heads, dim]`, as Transformers wants it next."""
        batch, heads, length = like.shape[:3]
        return like.new_empty((batch, length, heads, dim)).transpose(1, 2)


    @dataclass
    class FusedGradients:
        """What `launch_backward` returns; None where nothing was asked for."""

        query: Tensor
        key: Tensor
        value: Tensor
        log_polarity: Tensor | None
        bias: Tensor | None


    @faithful()
    def launch_backward(
        problem: FusedProblem, grad_output: Tensor, output: Tensor, lse: Tensor, stats: Tensor, *, log_polarity: bool, bias: bool
    ) -> FusedGradients:
        """Gradients in the dtypes of their tensors (that of log p in float32), from that of the output; the flags ask for two of them."""
        grad_query, grad_key, grad_value = (dense(tensor, tensor.shape[3]) for tensor in (problem.query, problem.key, problem.value))
        output, grad_output = (tensor.transpose(1, 2).contiguous() for tensor in (output, grad_output))
        delta, lse = torch.empty_like(lse), lse.contiguous()
        by_row = torch.zeros_like(lse) if log_polarity else None
        shared = {"GRAD": grad_output, "LSE": lse, "STATS": stats if stats.numel() else None, "DELTA": delta}
        if lse.numel() and not stats.numel():
            delta_kernel[math.ceil(lse.numel() / 64),](
                output, grad_output, delta, problem.batch, problem.heads, problem.queries, problem.value_dim, padded_size(problem.value_dim), 64
            )  # fmt: skip
        reduced = problem.reduced(log_polarity=log_polarity)
        summed = lse.new_zeros(grad_query.transpose(1, 2).shape).transpose(1, 2) if reduced else None
        if lse.numel() and not reduced:
            results = {"DQ": grad_query.transpose(1, 2), "D_LOG_P": by_row, "PASSES": 2 if stats.numel() else 1, "factor": problem.scale}

            def _launch_rows(tile: Tile) -> None:
                arguments = problem.arguments(tile, problem.spans(tile.rows))
                query_kernel[math.ceil(problem.queries / tile.rows) * problem.batch * problem.heads,](**arguments, **shared, **results)

            problem.run("query", _launch_rows)
        if problem.batch * problem.keys:
            into = {"DK": grad_key.transpose(1, 2), "DV": grad_value.transpose(1, 2), "factor": problem.scale}

            def _launch_columns(tile: Tile) -> None:
                arguments = problem.arguments(tile, problem.spans(tile.columns, transposed=True))
                arguments["SUM_Q"] = None if summed is None or not summed.numel() else _described(summed, tile.rows)
                key_value_kernel[math.ceil(problem.keys / tile.columns) * problem.batch * problem.kv_heads,](**arguments, **shared, **into)

            if reduced:
                _launch_columns(reduced)
            else:
                problem.run("key_value", _launch_columns)
        if summed is not None:
            grad_query.copy_(summed)
        by_head = None if by_row is None else by_row.sum((0, 2))
        return FusedGradients(grad_query, grad_key, grad_value, by_head, _bias_gradient(problem, shared) if bias else None)


    def _bias_gradient(problem: FusedProblem, shared: dict[str, Tensor | None]) -> Tensor | None:
        bias = problem.bias
        if bias is None or bias.numel() == 0 or problem.queries * problem.keys == 0:
            return None if bias is None else torch.zeros_like(bias)
        batch, heads, rows, columns = bias.shape
        tile = tiles("bias", max(problem.dim, problem.value_dim), problem.query.element_size())[0]
        blocks = math.ceil(problem.queries / tile.rows), math.ceil(problem.keys / tile.columns)
        shared_rows, shared_columns = rows < problem.queries, columns < problem.keys
        sizes = (blocks[0] if shared_rows else rows, blocks[1] if shared_columns else columns)
        partial = bias.new_empty((batch, heads, *sizes), dtype=torch.float32)
        strides = dict(zip(("out_b", "out_h", "out_m", "out_n"), partial.stride(), strict=True))
        bias_kernel[blocks[0] * blocks[1] * batch * heads,](
            **problem.arguments(tile, problem.spans(tile.rows)),
            **shared,
            **strides,
            D_BIAS=partial,
            batch=problem.batch,
            bias_batch=batch,
            bias_heads=heads,
            SHARED_M=shared_rows,
            SHARED_N=shared_columns,
        )
        return partial.sum_to_size(bias.shape).to(bias.dtype)


    def _rows(tensor: Tensor) -> Tensor:
        """The tensor, copied if its last dimension is not dense or its rows lie too far apart for 32-bit offsets within a tile."""
        return tensor if tensor.stride(3) == 1 and abs(tensor.stride(2)) < FARTHEST else tensor.contiguous()


    # hf_tanhmax/kernels/launch_decode.py
    """From tensors to the decoding kernels: how many chunks, which grids, where the partial results lie. Nothing here waits for the device."""


    # What the decoding kernel takes of the numbers that all kernels are called with.
    SHARED = (
        *(stride for stride in STRIDES if not stride.startswith("span")),
        "queries",
        "keys",
        "heads",
        "groups",
        "offset",
        "window",
        "scale",
        "cap",
        "DIM",
        "VALUE_DIM",
        "BLOCK_DIM",
        "BLOCK_VALUE",
    )
    SHARED += ("ALIGN", "BLOCK_M", "BLOCK_N", "POLARITY", "CAUSAL", "WINDOW", "CAPPED", "PRECISION", "ADDITIVE")
    SHARED += ("num_warps", "num_stages", "enable_fp_fusion")
    SCAN = 1024  # keys of the mask that a program looks through
    TOGETHER = 16  # chunks that are combined at a time
    MULTIPROCESSORS = 132  # of the GPU that the interpreter stands for


    @faithful()
    def launch_decode(problem: FusedProblem, table: Tensor | None, bounds: Tensor | None) -> tuple[Tensor, Tensor]:
        """Output `[batch, heads, queries, value_dim]` and L `[batch, heads, queries]`, in the layouts of `decode_outputs`.

        With a `table`, int32 or int64 `[batch, blocks]` or, if a block holds one key, `[keys of all entries]`, key and value are the blocks
        that it counts, `[blocks, kv_heads, keys of a block, dim]`, and `bounds`, `[batch + 1]`, say where each entry's keys begin.
        """
        output, lse = decode_outputs(problem.query, problem.value)
        if lse.numel() == 0:
            return output, lse
        ranges = _ranges(problem)
        group = problem.heads // problem.kv_heads * problem.queries

        def _launch(tile: Tile) -> None:
            longest = _longest(problem, table)
            programs, count, known = _scheduled(problem.layout, tile, table is not None, longest, _multiprocessors(problem.query.device))
            arguments = {**problem.tensors, **known, "RANGES": ranges, "TABLE": table, "BOUNDS": bounds}
            arguments["range_b"] = 0 if ranges is None or ranges.shape[0] == 1 else ranges.stride(0)
            arguments["chunks"] = 0 if ranges is None else ranges.shape[1]
            ragged = table is not None and table.dim() == 1
            arguments |= {"table_b": 0 if table is None or ragged else table.stride(0), "ragged": int(ragged)}
            rows, result = lse.numel(), {"OUT": output.transpose(1, 2), "LSE": lse.transpose(1, 2)}
            if count == 1:
                decode_kernel[programs,](**arguments, **result)
                return
            parts = output.new_empty((count, rows, problem.value_dim), dtype=torch.float32)
            lses = output.new_empty((count, rows), dtype=torch.float32)
            decode_kernel[programs * count,](**arguments, OUT=parts, LSE=lses)
            sizes = {"VALUE_DIM": problem.value_dim, "BLOCK_VALUE": padded_size(problem.value_dim), "BLOCK_S": TOGETHER}
            combine_kernel[rows,](parts, lses, *result.values(), rows, count, **sizes)

        problem.run(decode_kernel_for(group), _launch)
        return output, lse


    def decode_outputs(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Empty results, both of which lie in memory as `[batch, queries, heads, ..]`."""
        batch, heads, queries = query.shape[:3]
        return dense(query, value.shape[3]), query.new_empty((batch, queries, heads), dtype=torch.float32).transpose(1, 2)


    @lru_cache(maxsize=REMEMBERED)
    def _scheduled(layout: Layout, tile: Tile, paged: bool, longest: int, processors: int) -> tuple[int, int, dict[str, Any]]:
        """Programs without splitting, into how many chunks the keys are split, and the arguments that are no tensors; not to be changed."""
        batch, heads, queries, _ = layout.query
        kv_heads, keys, _ = layout.value
        programs = batch * kv_heads * triton.cdiv(heads // kv_heads * queries, tile.rows)
        count = splits(programs, longest, processors)
        everything = launch_numbers(layout, tile)
        found = {name: everything[name] for name in SHARED}
        found |= {"batch": batch, "splits": count, "shortest": SHORTEST, "EXACT": layout.exact, "PARTIAL": count > 1, "PAGE": 1}
        if paged:
            found |= {"PAGE": keys, "window": min(layout.masking[2] or 0, queries + longest)}
        return programs, count, found


    def _longest(problem: FusedProblem, table: Tensor | None) -> int:
        """How many keys an entry has at most, as far as sizes tell."""
        return problem.keys if table is None else table.shape[-1] * problem.keys


    def _ranges(problem: FusedProblem) -> Tensor | None:
        """Where the mask keeps any key, int32 `[batch or 1, chunks, 2]`; None if it is one for all keys."""
        keep = problem.visibility.keep
        if keep is None or keep.shape[3] == 1:
            return None
        mask = keep.view(torch.uint8)
        batch, heads, queries, keys = mask.shape
        chunks = triton.cdiv(keys, SCAN)
        ranges = mask.new_empty((batch, chunks, 2), dtype=torch.int32)
        range_kernel[batch * chunks,](mask, ranges, *mask.stride(), heads, queries, keys, chunks, BLOCK_N=SCAN)
        return ranges


    @cache
    def _multiprocessors(device: torch.device) -> int:
        return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else MULTIPROCESSORS


# hf_tanhmax/ops.py
"""The torch operators behind `implementation="cpu"` and `"triton"`: schema, shapes for tracing, gradients, vmap.

`hf_tanhmax::blocked_attention` and `hf_tanhmax::fused_attention` return output and log-sum-exp (which has no gradient; partial results over
disjoint keys merge by it as softmax's do), and each has a `.._backward`. To the compiler each is one node, so
`torch.compile(fullgraph=True)` and dynamic shapes work. A second derivative is computed through the reference, and vmap runs one element
after the other. `hf_tanhmax::decode_attention` is for a few queries against many keys, and has no gradient.
"""


@torch.library.custom_op(f"{NAMESPACE}::blocked_attention", mutates_args=(), device_types="cpu")
def blocked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_polarity: Tensor,
    bias: Tensor | None,
    additive_mask: Tensor | None,
    keep: Tensor | None,
    segments: Tensor | None,
    seed: Tensor | None,
    causal: bool,
    offset: int,
    window: int | None,
    scale: float,
    softcap: float | None,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    """Output `[batch, heads, queries, value_dim]` in the dtype of the query, and L `[batch, heads, queries]` in float32 or float64."""
    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep, segments)
    problem = BlockedProblem(query, key, value, log_polarity, visibility, bias, additive_mask, scale, softcap, dropout_p, seed)
    output, lse = blocked_forward(problem) if why_not_native(problem) else native_forward(problem)
    return output.to(query.dtype), lse


@torch.library.custom_op(f"{NAMESPACE}::blocked_attention_backward", mutates_args=(), device_types="cpu")
def blocked_attention_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_polarity: Tensor,
    bias: Tensor | None,
    additive_mask: Tensor | None,
    keep: Tensor | None,
    segments: Tensor | None,
    seed: Tensor | None,
    causal: bool,
    offset: int,
    window: int | None,
    scale: float,
    softcap: float | None,
    dropout_p: float,
    wants_polarity: bool,
    wants_bias: bool,
    wants_mask: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, log_polarity, bias and additive_mask; the last three are empty where they are not wanted."""
    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep, segments)
    # Passed on, not kept: its tensors in float32 make room for the gradients in the dtype of the inputs.
    found = _blocked_gradients(
        BlockedProblem(query, key, value, log_polarity, visibility, bias, additive_mask, scale, softcap, dropout_p, seed),
        grad_output,
        log_polarity=wants_polarity,
        bias=wants_bias,
        additive_mask=wants_mask,
    )
    pairs = (found.log_polarity, log_polarity), (found.bias, bias), (found.additive_mask, additive_mask)
    polarity_grad, bias_grad, mask_grad = (_like(gradient, tensor, query) for gradient, tensor in pairs)
    inputs = (found.query.to(query.dtype), found.key.to(key.dtype), found.value.to(value.dtype))
    return *inputs, polarity_grad, bias_grad, mask_grad


def _blocked_gradients(problem: BlockedProblem, grad_output: Tensor, **wanted: bool) -> BlockedGradients:
    if why_not_native(problem):
        return blocked_backward(problem, grad_output, **wanted)
    return native_backward(problem, grad_output, log_polarity=wanted["log_polarity"])


def _like(gradient: Tensor | None, tensor: Tensor | None, query: Tensor) -> Tensor:
    """A gradient in the dtype of its tensor; empty where there is none, as an operator returns tensors alone."""
    return query.new_empty(0) if gradient is None or tensor is None else gradient.to(tensor.dtype)


def _fake_gradients(query: Tensor, tensors: Iterable[Tensor | None], wanted: Iterable[bool]) -> list[Tensor]:
    """What `_like` gives, without the numbers."""
    pairs = zip(tensors, wanted, strict=True)
    return [query.new_empty(0) if tensor is None or not wants else tensor.new_empty(tensor.shape) for tensor, wants in pairs]


@blocked_attention.register_fake
def _(query: Tensor, _key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    lse = query.new_empty(query.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))
    return query.new_empty(*query.shape[:3], value.shape[-1]), lse


@blocked_attention_backward.register_fake
def _(_grad_output: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    query, contiguous = arguments[0], torch.contiguous_format
    gradients = [torch.empty_like(tensor, memory_format=contiguous) for tensor in arguments[:3]]
    return *gradients, *_fake_gradients(query, arguments[3:6], arguments[-3:])


@torch.library.custom_op(f"{NAMESPACE}::fused_attention", mutates_args=())
def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_polarity: Tensor | None,
    bias: Tensor | None,
    additive_mask: Tensor | None,
    keep: Tensor | None,
    segments: Tensor | None,
    seed: Tensor | None,
    causal: bool,
    offset: int,
    window: int | None,
    scale: float,
    softcap: float | None,
    dropout_p: float,
    signed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output `[batch, heads, queries, value_dim]`, L `[batch, heads, queries]` in float32, and what the backward pass needs besides.

    Without `log_polarity` the polarity is 1 if `signed`, else 0 (softmax, which takes half the exponentials). Of bias and additive mask one
    is None.
    """


    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep, segments)
    with device_of(query):
        numbers = (scale, softcap, dropout_p, seed, is_exact(query))
        added = bias if additive_mask is None else additive_mask
        problem = FusedProblem(query, key, value, log_polarity, signed, visibility, added, *numbers, additive=additive_mask is not None)
        return launch_forward(problem)


@torch.library.custom_op(f"{NAMESPACE}::fused_attention_backward", mutates_args=())
def fused_attention_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_polarity: Tensor | None,
    bias: Tensor | None,
    additive_mask: Tensor | None,
    keep: Tensor | None,
    segments: Tensor | None,
    seed: Tensor | None,
    output: Tensor,
    lse: Tensor,
    stats: Tensor,
    causal: bool,
    offset: int,
    window: int | None,
    scale: float,
    softcap: float | None,
    dropout_p: float,
    signed: bool,
    wants_polarity: bool,
    wants_bias: bool,
    wants_mask: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, log_polarity, bias and additive_mask; the last three are empty where they are not wanted."""


    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep, segments)
    with device_of(query):
        numbers = (scale, softcap, dropout_p, seed, stats.numel() > 0)
        added = bias if additive_mask is None else additive_mask
        problem = FusedProblem(query, key, value, log_polarity, signed, visibility, added, *numbers, additive=additive_mask is not None)
        found = launch_backward(problem, grad_output, output, lse, stats, log_polarity=wants_polarity, bias=wants_bias or wants_mask)
    pairs = (found.log_polarity, log_polarity), (found.bias, bias), (found.bias, additive_mask)
    polarity_grad, bias_grad, mask_grad = (_like(gradient, tensor, query) for gradient, tensor in pairs)
    return found.query, found.key, found.value, polarity_grad, bias_grad, mask_grad


@fused_attention.register_fake
def _(query: Tensor, _key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:


    return outputs(query, value)


@fused_attention_backward.register_fake
def _(_grad_output: Tensor, *arguments: Any) -> tuple[Tensor, ...]:


    gradients = [dense(tensor, tensor.shape[3]) for tensor in arguments[:3]]
    return *gradients, *_fake_gradients(arguments[0], arguments[3:6], arguments[-3:])


@torch.library.custom_op(f"{NAMESPACE}::decode_attention", mutates_args=())
def decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_polarity: Tensor | None,
    bias: Tensor | None,
    additive_mask: Tensor | None,
    keep: Tensor | None,
    block_table: Tensor | None,
    bounds: Tensor | None,
    causal: bool,
    offset: int,
    window: int | None,
    scale: float,
    softcap: float | None,
    signed: bool,
) -> tuple[Tensor, Tensor]:
    """Output `[batch, heads, queries, value_dim]`, and L `[batch, heads, queries]` in float32, +inf where a query sees no key.

    With a `block_table` key and value are `[blocks, kv_heads, keys of a block, dim]`; see `paging`.
    """


    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep)
    with device_of(query):
        numbers = (scale, softcap, 0.0, None, is_exact(query))
        added = bias if additive_mask is None else additive_mask
        problem = FusedProblem(query, key, value, log_polarity, signed, visibility, added, *numbers, additive=additive_mask is not None)
        return launch_decode(problem, block_table, bounds)


@decode_attention.register_fake
def _(query: Tensor, _key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:


    return decode_outputs(query, value)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:9], *(output if len(output) > 2 else ()))
    ctx.options = inputs[9:]
    ctx.mark_non_differentiable(*output[1:])


def _backward_through(backward: Any) -> Any:
    """The gradient formula of an operator, by its backward operator."""

    def _gradients(ctx: Any, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        saved, wants = list(ctx.saved_tensors), ctx.needs_input_grad
        if torch.is_grad_enabled():
            return (*_second_order(saved[:9], ctx.options, wants, grad_output), *(None for _ in ctx.options))
        found = backward(grad_output, *saved, *ctx.options, *wants[3:6])
        wanted = [gradient if wanted else None for gradient, wanted in zip(found, wants[:6], strict=True)]
        return (*wanted, *(None for _ in (*saved[6:9], *ctx.options)))

    return _gradients


def _second_order(inputs: list[Any], options: tuple[Any, ...], wants: tuple[bool, ...], grad_output: Tensor) -> list[Tensor | None]:
    """First derivatives that can be differentiated again, by recomputing through the reference; memory grows with queries times keys."""
    query, key, value, log_p, bias, additive_mask, keep, segments, _seed = inputs
    causal, offset, window, scale, softcap, dropout_p, *signed = options
    if dropout_p > 0:
        raise NotImplementedError('second derivatives with dropout need implementation="reference"')
    visibility = Visibility(query.shape[2], key.shape[2], causal, offset, window, keep, segments)
    polarity = float(signed[0]) if log_p is None else torch.exp(log_p)
    added, numbers = {"bias": bias, "additive_mask": additive_mask}, {"scale": scale, "softcap": softcap, "polarity": polarity}
    output, _ = reference_attention(query, key, value, visibility, **added, **numbers, return_weights=False)
    differentiated = [tensor for tensor, wanted in zip(inputs, wants, strict=False) if wanted]
    found = iter(torch.autograd.grad(output, differentiated, grad_output, create_graph=True))
    return [next(found) if wanted else None for wanted in wants[: len(inputs)]]


def _one_after_the_other(operator: Any) -> Any:
    """A rule for vmap: the operator once for each element."""

    def _rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        def _element(index: int) -> tuple[Tensor, ...]:
            pairs = zip(arguments, in_dims, strict=True)
            return operator(*(item if dim is None else item.select(dim, index) for item, dim in pairs))

        stacked = tuple(torch.stack(parts) for parts in zip(*map(_element, range(info.batch_size)), strict=True))
        return stacked, (0,) * len(stacked)

    return _rule


for _pair in ((blocked_attention, blocked_attention_backward), (fused_attention, fused_attention_backward)):
    _pair[0].register_autograd(_backward_through(_pair[1]), setup_context=_setup_context)
    for _operator in _pair:
        _operator.register_vmap(_one_after_the_other(_operator))
decode_attention.register_vmap(_one_after_the_other(decode_attention))


# hf_tanhmax/attention.py
"""`tanhmax_attention`: the one door to TanhMax attention. Arguments are checked here and nowhere below; implementations are chosen here."""


Causal = bool | Literal["upper_left", "lower_right"]
IMPLEMENTATIONS = ("reference", "composed", "triton", "cpu")
INFERENCE_ONLY = ("decode",)
# What "auto" tries, by type of device, before the reference.
AUTOMATIC = {"cpu": ("cpu",), "cuda": ("triton", "composed")}


@dataclass(frozen=True)
class Options:
    """The keyword arguments of `tanhmax_attention`, as they came."""

    keep: Tensor | None
    bias: Tensor | None
    additive_mask: Tensor | None
    is_causal: Causal
    scale: float | None
    window: int | None
    softcap: float | None
    dropout_p: float
    polarity: float | Tensor
    cu_seqlens: Tensor | None
    block_table: Tensor | None
    return_weights: bool


@dataclass(frozen=True)
class Call:
    """One checked call: everything an implementation may need, with polarity as a number or `[heads]`."""

    query: Tensor
    key: Tensor
    value: Tensor
    visibility: Visibility
    paging: Paging | None
    bias: Tensor | None
    additive_mask: Tensor | None
    scale: float
    softcap: float | None
    dropout_p: float
    polarity: float | Tensor
    return_weights: bool

    @property
    def polarities(self) -> Tensor:
        """The polarity as `[heads]`, in float32 or float64."""
        if isinstance(self.polarity, Tensor):
            return self.polarity
        exact = torch.promote_types(self.query.dtype, torch.float32)
        return torch.full((self.query.shape[1],), self.polarity, dtype=exact, device=self.query.device)

    @property
    def needs_gradient(self) -> bool:
        """Whether anything that is computed with is to be differentiated."""
        tensors = (self.query, self.key, self.value, self.bias, self.additive_mask, self.polarity)
        return torch.is_grad_enabled() and any(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors)

    @property
    def wishes(self) -> dict[str, Any]:
        """What is wanted besides the output, as `decodable` asks for it."""
        return {"needs_gradient": self.needs_gradient, "dropout_p": self.dropout_p, "packed": self.visibility.segments is not None}


def tanhmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    keep: Tensor | None = None,
    bias: Tensor | None = None,
    additive_mask: Tensor | None = None,
    is_causal: Causal = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    polarity: float | Tensor = 1.0,
    cu_seqlens: Tensor | None = None,
    block_table: Tensor | None = None,
    implementation: str = "auto",
    return_weights: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention whose weights are signed: `tanhmax(softcap(scale * Q K^T) + bias, additive_mask) V` (Huang et al. 2024).

    Args:
        query: `[batch, heads, queries, head_dim]`, of one dtype with key and value; under autocast different ones become autocast's.
        key: `[batch, kv_heads, keys, head_dim]`; `kv_heads` divides `heads` (GQA).
        value: `[batch, kv_heads, keys, value_dim]`.
        keep: boolean, broadcasts to `[batch, heads, queries, keys]`; True takes part. A query that keeps no key gets output 0.
        bias: floating point, broadcasts likewise; added to the scores after the softcap, so it may turn their signs. Differentiable.
        additive_mask: floating point, broadcasts likewise; what softmax attention adds to its scores to hide keys, or to fade them by
            position. It turns no sign, but multiplies the share of a key: with scores a (the bias included), mask m and polarity p,
            `w_j = e^m_j (e^a_j - p e^-a_j) / sum_k e^m_k (e^a_k + p e^-a_k)`. Values of -9000 and less hide as `keep` does. Differentiable.
        is_causal: hide later keys. True and `"upper_left"` put the first query at the first key; `"lower_right"` puts the last query
            at the last key, as in a chunk appended to a cache.
        scale: multiplies query times key; None is `head_dim ** -0.5`.
        window: a query sees the `window` keys up to its own if causal, else also `window - 1` later ones.
        softcap: scores become `softcap * tanh(scores / softcap)`.
        dropout_p: share of the weights set to 0, the others divided by `1 - dropout_p`; give 0 in evaluation.
        polarity: 1 is TanhMax, 0 softmax; a number in [0, 1] or a differentiable tensor `[heads]`.
        cu_seqlens: int32 or int64 `[sequences + 1]`, the bounds of sequences packed into a batch of one; no sequence sees another. With a
            `block_table`, the bounds of the batch entries' keys.
        block_table: int32 or int64; key and value are then blocks of a paged cache, `[blocks, kv_heads, keys of a block, dim]`, and this
            counts those of each entry, `[batch, blocks]`, or, if blocks hold one key, of one entry after the other. `is_causal` is False or
            `"lower_right"`, and there is no keep, no bias and no additive mask.
        implementation: a name runs or raises. `"auto"` is `"cpu"` on the CPU, `"triton"` on CUDA where it can run (`why_not` says why it
            cannot), else `"composed"`, and `"reference"` where weights are wanted, where `"composed"` would lack dropout or softcap, and
            in `torch.export`, `torch.onnx.export` and `torch.jit.trace`, which write for runtimes that have no operators but torch's.
            `"triton"` is `"decode"` where that can run: 1 to 16 queries without gradients, whose keys are read once, by all of the GPU,
            and through the block table. The reference gathers blocks first, and the others take none.
        return_weights: also return the weights `[batch, heads, queries, keys]`; only the reference has them. Gradients pass through them,
            in the dtype of the query.

    Returns:
        Output `[batch, heads, queries, value_dim]` in the dtype of the query, and the weights if wanted.

    Raises:
        ValueError, TypeError: an argument that does not fit; the sentence names it.
        NotImplementedError: a named implementation that does not do what is asked.
    """
    masks, packing = (keep, bias, additive_mask, is_causal), (cu_seqlens, block_table)
    options = Options(*masks, scale, window, softcap, dropout_p, polarity, *packing, return_weights)
    call = _checked(query, key, value, options)
    name = _chosen(implementation, call)
    if not _autocasts(query.device.type):
        return _run(name, call)
    # An implementation chooses its own precision: autocast inside it would round scores and weights to half.
    with torch.autocast(query.device.type, enabled=False):
        return _run(name, call)


def why_not(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    keep: Tensor | None = None,
    bias: Tensor | None = None,
    additive_mask: Tensor | None = None,
    is_causal: Causal = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    polarity: float | Tensor = 1.0,
    cu_seqlens: Tensor | None = None,
    block_table: Tensor | None = None,
    implementation: str = "triton",
    return_weights: bool = False,
) -> str | None:
    """Why an implementation would not run a call of `tanhmax_attention` with these arguments, as a sentence; None if it would.

    Of `"native"`, the C++ operator: why `"cpu"` would not use it for this call.

    Raises:
        ValueError, TypeError: an argument that does not fit, as in `tanhmax_attention`.
    """
    masks, packing = (keep, bias, additive_mask, is_causal), (cu_seqlens, block_table)
    options = Options(*masks, scale, window, softcap, dropout_p, polarity, *packing, return_weights)
    if implementation != "native":
        _check_name(implementation)
    call = _checked(query, key, value, options)
    reason = unsupported("cpu", call) or _native_unsupported(call) if implementation == "native" else unsupported(implementation, call)
    return None if reason is None else f"implementation={implementation!r} {reason}"


def _checked(query: Tensor, key: Tensor, value: Tensor, options: Options) -> Call:
    if query.dtype != value.dtype or key.dtype != value.dtype:
        query, key, value = _cast_alike(query, key, value)
    _check_tensors(query, key, value, paged=options.block_table is not None)
    keep, bias, additive = options.keep, options.bias, options.additive_mask
    paging = None if options.block_table is None else _paging(query, key, options)
    if keep is not None:
        check_keep(keep, _score_shape(query, key), "[batch, heads, queries, keys]")
        _check_device("keep", keep, query)
    for name, added in (("bias", bias), ("additive_mask", additive)):
        if added is not None:
            check_added(name, added, _score_shape(query, key), "[batch, heads, queries, keys]")
            _check_device(name, added, query)
    _check_numbers(options.window, options.softcap, options.dropout_p)
    return Call(
        query=query,
        key=key,
        value=value,
        visibility=_visibility(query, key, options),
        paging=paging,
        bias=None if bias is None else bias[(None,) * (4 - bias.dim())],
        additive_mask=None if additive is None else additive[(None,) * (4 - additive.dim())],
        scale=query.shape[-1] ** -0.5 if options.scale is None else options.scale,
        softcap=options.softcap,
        dropout_p=options.dropout_p,
        polarity=_checked_polarity(options.polarity, query),
        return_weights=options.return_weights,
    )


def _chosen(implementation: str, call: Call) -> str:
    if implementation == "auto":
        names = () if _exporting() else AUTOMATIC.get(call.query.device.type, ("composed",))
        return next((name for name in names if unsupported(name, call) is None), "reference")
    _check_name(implementation)
    reason = unsupported(implementation, call)
    if reason is not None:
        raise NotImplementedError(f"implementation={implementation!r} {reason}; use implementation='auto' or 'reference'")
    return implementation


def _exporting() -> bool:
    """Whether the call is recorded for another runtime, which knows torch's operators and not those of `ops`."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def _autocasts(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def _check_name(implementation: str) -> None:
    if implementation not in (names := (*IMPLEMENTATIONS, *INFERENCE_ONLY)):
        raise ValueError(f"unknown implementation {implementation!r}; there are auto, {', '.join(names)}")


def unsupported(implementation: str, call: Call) -> str | None:
    """Why an implementation cannot run a call, as the end of a sentence; None if it can."""
    if implementation == "reference":
        return None
    if call.return_weights:
        return "has no weights to return"
    if implementation in ("triton", "decode") and call.bias is not None and call.additive_mask is not None:
        return "takes a bias or an additive mask, but both are given"
    if implementation == "decode" or (implementation == "triton" and call.paging is not None):
        return decode_unsupported(call.query, call.value, **call.wishes)
    if implementation == "triton":
        return fused_unsupported(call.query, call.value)
    if call.paging is not None:
        return "reads no block table"
    if implementation == "cpu" and call.query.device.type != "cpu":
        return f"runs on the CPU alone, but the tensors are on {call.query.device}"
    if implementation == "composed" and call.softcap is not None:
        return "has no softcap: stock softmax kernels lack it"
    if implementation == "composed" and call.dropout_p > 0:
        return "has no dropout: a softmax kernel would drop the two halves of a weight separately"
    return None


def _native_unsupported(call: Call) -> str | None:
    tensors = (call.query, call.key, call.value, log_polarity(call.polarities), call.visibility, call.bias, call.additive_mask)
    return why_not_native(BlockedProblem(*tensors, call.scale, call.softcap, call.dropout_p, None))


def reads_blocks(query: Tensor, value: Tensor) -> bool:
    """Whether `"auto"` reads a block table with such tensors where it lies, if no weights are wanted; else keys are to be gathered."""
    needs_gradient = torch.is_grad_enabled() and (query.requires_grad or value.requires_grad)
    if "triton" not in AUTOMATIC.get(query.device.type, ()) or not decodable(
        query, needs_gradient=needs_gradient, dropout_p=0.0, packed=False
    ):
        return False
    return fused_unsupported(query, value) is None


def _run(implementation: str, call: Call) -> Tensor | tuple[Tensor, Tensor]:
    tensors, visibility = (call.query, call.key, call.value), call.visibility
    constant = not isinstance(call.polarity, Tensor) and call.polarity in (0.0, 1.0)
    if implementation == "decode" or (implementation == "triton" and decodable(call.query, **call.wishes)):
        log_p = None if constant else log_polarity(call.polarities)
        blocks = (None, None) if call.paging is None else (call.paging.block_table, call.paging.bounds)
        seen = (call.bias, call.additive_mask, visibility.keep, *blocks, visibility.causal, visibility.offset, visibility.window)
        return decode_attention(*tensors, log_p, *seen, call.scale, call.softcap, call.polarity == 1.0 if constant else True)[0]
    if implementation in ("cpu", "triton"):
        seed = torch.randint(2**62, (), device=call.query.device) if call.dropout_p > 0 else None
        masks = (call.bias, call.additive_mask, visibility.keep, visibility.segments, seed)
        rest = (visibility.causal, visibility.offset, visibility.window, call.scale, call.softcap, call.dropout_p)
        if implementation == "cpu":
            return blocked_attention(*tensors, log_polarity(call.polarities), *masks, *rest)[0]
        log_p = None if constant else log_polarity(call.polarities)
        return fused_attention(*tensors, log_p, *masks, *rest, call.polarity == 1.0 if constant else True)[0]
    if call.paging is not None:
        tensors, visibility = call.paging.gathered(*tensors, visibility)
    if implementation == "composed" and call.key.numel() and call.query.numel():  # stock kernels stop the process at 0 keys
        return composed_attention(
            *tensors,
            visibility,
            bias=call.bias,
            additive_mask=call.additive_mask,
            scale=call.scale,
            polarity=call.polarities,
        )
    output, weights = reference_attention(
        *tensors,
        visibility,
        bias=call.bias,
        additive_mask=call.additive_mask,
        scale=call.scale,
        softcap=call.softcap,
        dropout_p=call.dropout_p,
        polarity=call.polarity,
        return_weights=call.return_weights,
    )
    return output if weights is None else (output, weights)


def _score_shape(query: Tensor, key: Tensor) -> tuple[int, int, int, int]:
    return query.shape[0], query.shape[1], query.shape[2], key.shape[2]


def _check_tensors(query: Tensor, key: Tensor, value: Tensor, *, paged: bool) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} must be [batch, heads, length, head_dim], but has shape {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, but is {tensor.dtype}")
        if tensor.dtype != query.dtype:
            raise TypeError(f"query, key and value must have one dtype, but {name} is {tensor.dtype} and query is {query.dtype}")
        _check_device(name, tensor, query)
    if (query.shape[0] != key.shape[0] and not paged) or key.shape[:3] != value.shape[:3]:
        raise ValueError(
            "query, key and value must agree in batch, and key and value in heads and length, but have shapes "
            f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        )
    if query.shape[3] != key.shape[3]:
        raise ValueError(f"query and key must have one head size, but have {query.shape[3]} and {key.shape[3]}")
    if key.shape[1] == 0 or query.shape[1] % key.shape[1]:
        raise ValueError(f"the {key.shape[1]} key heads must divide the {query.shape[1]} query heads")


def _cast_alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of several dtypes in autocast's, if it is on and would cast them for torch's own attention; else as they are."""
    kind = tensors[0].device.type
    if not _autocasts(kind) or any(tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16) for tensor in tensors):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)


def _check_device(name: str, tensor: Tensor, query: Tensor) -> None:
    if tensor.device != query.device:
        raise ValueError(f"{name} is on {tensor.device}, but query is on {query.device}; move one of them")


def _check_numbers(window: int | None, softcap: float | None, dropout_p: float) -> None:
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, as a query sees its own key, but is {window}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap must be positive, but is {softcap}")
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p must be in [0, 1), but is {dropout_p}")


def _visibility(query: Tensor, key: Tensor, options: Options) -> Visibility:
    is_causal, keep = options.is_causal, options.keep
    if is_causal not in (False, True, "upper_left", "lower_right"):
        raise ValueError(f'is_causal must be a bool, "upper_left" or "lower_right", but is {is_causal!r}')
    queries, keys = query.shape[2], key.shape[2]
    return Visibility(
        queries=queries,
        keys=keys,
        causal=bool(is_causal),
        offset=keys - queries if is_causal == "lower_right" else 0,
        window=options.window,
        keep=None if keep is None else keep[(None,) * (4 - keep.dim())],
        segments=None if options.cu_seqlens is None or options.block_table is not None else packed_segments(options.cu_seqlens, query, key),
    )


def _paging(query: Tensor, key: Tensor, options: Options) -> Paging:
    for name, given in (("keep", options.keep), ("bias", options.bias), ("additive_mask", options.additive_mask)):
        if given is not None:
            raise ValueError(f"with a block_table there is no {name}: cu_seqlens says how many keys each entry has")
    if options.is_causal not in (False, "lower_right") or (options.window is not None and not options.is_causal):
        raise ValueError(
            'with a block_table is_causal must be "lower_right", or False without a window, as the last query is at the last key; '
            f"but is_causal is {options.is_causal!r} and window {options.window}"
        )
    return checked_paging(options.block_table, options.cu_seqlens, query, key)  # type: ignore[arg-type]


def _checked_polarity(polarity: float | Tensor, query: Tensor) -> float | Tensor:
    heads, exact = query.shape[1], torch.promote_types(query.dtype, torch.float32)
    checked = check_polarity(polarity)
    if not isinstance(checked, Tensor):
        return checked
    if checked.dim() > 1 or checked.numel() not in (1, heads):
        raise ValueError(f"a polarity tensor must be a scalar or [heads] = [{heads}], but has shape {tuple(checked.shape)}")
    _check_device("polarity", checked, query)
    return checked.to(exact).expand(heads)


# hf_tanhmax/compatibility/caches.py
"""The caches of Transformers, whatever release of them is installed: their name, their contents, and when they are updated.

| release | cache of a model | who updates a paged cache | what it is given |
|---|---|---|---|
| 5.17 | `past_key_values=` | the attention function, which gets it as `cache=` | the indices, one by one |
| to 5.23 | the same | the same | the keyword arguments of the attention function |
| 5.24 | `cache=` | the attention module, before it asks the interface | its keyword arguments |

A module that updates a paged cache gathers all its keys, where decoding could read them as they lie. So a TanhMax module of 5.24 gets its
paged cache in a wrapper that puts off the update: it hands the cache on to the attention function, which takes it as before.
"""


HANDLE = "tanhmax_cache_handle"


def cache_argument(forward: Callable[..., Any]) -> str | None:
    """The name under which a forward takes a cache, and a model returns it: `cache` or `past_key_values`; None if it takes none."""
    names = inspect.signature(inspect.unwrap(forward)).parameters
    return next((name for name in ("cache", "past_key_values") if name in names), None)


def in_continuous_batching(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of the attention function is one of continuous batching: it has a paged cache, or what was read of one."""
    return kwargs.get("cache") is not None or kwargs.get("write_index") is not None


class PutOffUpdate:
    """A paged cache that leaves its update to the attention function, to which it hands itself on as `cache`.

    Args:
        cache: the paged cache, to which all else is passed through.
    """

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The new keys and values as they came; `kwargs`, which go to the attention function, get the cache."""
        kwargs["cache"] = self.cache
        return key_states, value_states

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)


def put_off_updates(module: nn.Module) -> None:
    """Have an attention module leave the update of a paged cache to the attention function; does nothing where that is so already."""
    if cache_argument(type(module).forward) == "cache" and not hasattr(module, HANDLE):
        setattr(module, HANDLE, module.register_forward_pre_hook(_put_off, with_kwargs=True))


def update_at_once(module: nn.Module) -> None:
    """Undo `put_off_updates`."""
    if hasattr(module, HANDLE):
        getattr(module, HANDLE).remove()
        delattr(module, HANDLE)


def _put_off(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if kwargs.get("cache") is None or kwargs.get("write_index") is None:
        return None
    return args, kwargs | {"cache": PutOffUpdate(kwargs["cache"])}


def updated(cache: Any, key: Tensor, value: Tensor, layer: int, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Put new keys and values, `[1, kv_heads, queries, dim]`, into a paged cache, and gather all that the queries may see.

    Returns:
        Keys and values, `[1, kv_heads, keys, dim]`.
    """
    states = {"key_states": key, "value_states": value, "layer_idx": layer}
    if _takes_indices(cache):
        key, value = cache.update(**states, read_index=kwargs["read_index"], write_index=kwargs["write_index"])
        return key.transpose(0, 1)[None], value.transpose(0, 1)[None]
    return cache.update(**states, kwargs=kwargs)


def written(cache: Any, key: Tensor, value: Tensor, layer: int, kwargs: Mapping[str, Any]) -> None:
    """Put new keys and values into a paged cache, as `updated`, and gather nothing: it is told to read nothing."""
    names = ("read_index", "write_index", "cu_seq_lens_k", "max_length_k")
    indices = {name: kwargs.get(name) for name in names}
    indices["read_index"] = [index[:0] for index in kwargs["read_index"]]
    states = {"key_states": key, "value_states": value, "layer_idx": layer}
    if _takes_indices(cache):
        cache.update(**states, read_index=indices["read_index"], write_index=indices["write_index"])
    else:
        cache.update(**states, kwargs=indices)


def layer_of_cache(cache: Any, layer: int) -> tuple[Tensor, Tensor, int, str] | None:
    """One layer of a paged cache, where it lies: Transformers has no public view of it, so these attributes are private.

    Returns:
        Rows of keys and of values, `[rows, kv_heads, dim]`, the layer's group, and the name of its kind; None if it has a window.
    """
    if hasattr(cache, "layer_to_allocator"):
        allocator = cache.layer_to_allocator[layer]
        if not allocator.supports_block_table:
            return None
        key, value = (pages.flatten(0, 1) for pages in allocator.get_cache_for_block_table(layer))
        return key, value, allocator.index, allocator.layer_type
    if not hasattr(cache, "layer_index_to_group_indices") or cache.sliding_windows[layer] != 1:
        return None
    group, place = cache.layer_index_to_group_indices[layer]
    return cache.key_cache[place], cache.value_cache[place], group, "full_attention"


def _takes_indices(cache: Any) -> bool:
    return "read_index" in inspect.signature(cache.update).parameters


# hf_tanhmax/serving.py
"""What continuous batching of Transformers hands over, as a block table: then its cache is read where it lies, and nothing is gathered.

Transformers makes block tables for FlashAttention only. Every other attention gets `read_index`, the rows of the cache that hold the keys
of all requests, one request after the other: a table of blocks of one key. So decoding reads through that. These are gathered by
Transformers instead, as for any other attention:

* batches that hold a prompt, or whose sizes are padded for CUDA graphs, as nothing on the host then says that each request has one query;
* layers with a sliding window, whose cache is a ring that new keys may overwrite before they are read.
"""


@dataclass(frozen=True)
class CachedBlocks:
    """The keys of one layer in a paged cache.

    Attributes:
        key, value: `[rows, kv_heads, 1, dim]`, views of the cache.
        table: `[keys of all requests]`, the row of each.
        bounds: `[requests + 1]`, where the keys of each request begin.
    """

    key: Tensor
    value: Tensor
    table: Tensor
    bounds: Tensor


def cached_blocks(query: Tensor, value: Tensor, layer: int, kwargs: dict[str, Any]) -> CachedBlocks | None:
    """The cache of a batch in which each request has one query, if it can be read where it lies; else None.

    Args:
        query: `[1, heads, requests, head_dim]`.
        value: `[1, kv_heads, requests, value_dim]`.
        layer: index of the layer.
        kwargs: what Transformers passes to the attention function.
    """
    bounds, most = kwargs.get("cu_seq_lens_q"), kwargs.get("max_length_q", kwargs.get("max_seqlen_q"))
    if most != 1 or bounds is None or bounds.shape[0] != query.shape[2] + 1 or kwargs.get("position_bias") is not None:
        return None
    one = query.transpose(0, 2)
    if kwargs.get("dropout") or not reads_blocks(one, value):
        return None
    found = layer_of_cache(kwargs["cache"], layer)
    if found is None:
        return None
    key, value, group, kind = found
    table = kwargs["read_index"][group]
    if table.shape[0] == 0:
        return None
    lengths = kwargs["cu_seq_lens_k"]
    bounds = lengths[kind] if isinstance(lengths, dict) else lengths  # 5.17 gives no mapping where there is one kind of layers
    return CachedBlocks(key[:, :, None], value[:, :, None], table, bounds)


# hf_tanhmax/registration.py
"""What Transformers calls: TanhMax under three names of its attention interface, each with the mask that belongs to it.

* `tanhmax` returns no weights unless the caller asked for `output_attentions`, and takes the fastest implementation;
* `tanhmax_eager` always returns the signed weights;
* `tanhmax_paged` is `tanhmax` inside continuous batching, and raises outside of it.

All ask for boolean masks (`sdpa_mask`). What an architecture or a user adds to the scores instead, a floating-point mask or a position
bias, is a convention about softmax, which multiplies a key's share by its exponential; as a part of the score, -100 would be a large weight
of the other sign. So it is an `additive_mask`, never a `bias`. This module only translates; `tanhmax_attention` computes.
"""


FUSED = NAMESPACE.removeprefix("hf_")
EAGER, PAGED = f"{FUSED}_eager", f"{FUSED}_paged"
SCORE_BIAS = "tanhmax_score_bias"

# Arguments that change what attention computes and that TanhMax attention does not do.
REFUSED = {
    "s_aux": "attention sinks",
    "sinks": "attention sinks",
    "indices": "sparse key selection",
    "block_indices": "sparse key selection",
}
MASK_BITS = 32  # heads of one number
# Tensors that reach the attention function but do not change what it computes here: positions are in query and key already, masks and
# packing arrive as the mask, and the cache reads the rest itself. Any other tensor is refused.
CARRIED = frozenset(
    {
        "position_ids",
        "cache_position",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "cu_seq_lens_q",
        "cu_seq_lens_k",
        "max_length_q",
        "max_length_k",
        "max_seqlen_q",
        "max_seqlen_k",
        "read_index",
        "write_index",
        "block_table",
        "num_items_in_batch",
        "shift_labels",
        "seq_idx",
        "logits_to_keep",
        "logits_indices",
        "logits_processor_args",
    }
)


def register_attention() -> None:
    """Register attention and mask under every name; calling it again changes nothing."""
    for name, function in ((FUSED, fused_forward), (EAGER, eager_forward), (PAGED, paged_forward)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, sdpa_mask)


def fused_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """TanhMax attention for Transformers; weights only if the caller passed `output_attentions=True`.

    Args:
        module: the attention module; its config and its `tanhmax_score_bias` say how signed the weights are.
        query: `[batch, heads, queries, head_dim]`; key and value may have fewer heads.
        key: `[batch, kv_heads, keys, head_dim]`.
        value: `[batch, kv_heads, keys, value_dim]`.
        attention_mask: None, boolean (True takes part) or additive; 4-dimensional.
        **kwargs: what Transformers passes along; an argument that would change the result and is not honoured is refused.

    Returns:
        Output `[batch, queries, heads, value_dim]`, contiguous, and the weights or None.

    Raises:
        NotImplementedError: attention sinks, sparse key selection, context parallelism, or a tensor of unknown meaning.
        TypeError: a mask that is not a 4-dimensional tensor.
    """
    return _forward(module, query, key, value, attention_mask, bool(kwargs.get("output_attentions")), kwargs)


def eager_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The same as `fused_forward`, with the signed weights `[batch, heads, queries, keys]` always."""
    return _forward(module, query, key, value, attention_mask, True, kwargs)


def paged_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The same as `fused_forward`, for names that Transformers makes no mask for, as continuous batching brings its own.

    Raises:
        ValueError: no paged cache, so padding would be seen and causality lost.
    """
    if not in_continuous_batching(kwargs):
        raise ValueError('a "paged|" attention works in continuous batching only; set_attn_implementation("sdpa") for a standard forward')
    return _forward(module, query, key, value, attention_mask, bool(kwargs.get("output_attentions")), kwargs)


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    weights: bool,
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    _refuse(module, kwargs)
    if kwargs.get("cache") is not None:
        blocks = None if weights else cached_blocks(query, value, _layer_of(module), kwargs)
        if blocks is not None:
            return _decoded(module, query, (key, value), blocks, kwargs), None
        key, value = updated(kwargs["cache"], key, value, _layer_of(module), kwargs)
    keep, additive = _split_mask(mask, kwargs.get("position_bias"), key.shape[-2], paged=in_continuous_batching(kwargs))
    found = tanhmax_attention(
        query,
        key,
        value,
        keep=keep,
        additive_mask=additive,
        is_causal=mask is None and _is_causal(module, query, kwargs.get("is_causal")),
        scale=kwargs.get("scaling"),
        softcap=kwargs.get("softcap"),
        dropout_p=kwargs.get("dropout") or 0.0,
        polarity=_polarity(module, query),
        cu_seqlens=_bounds(query, key, mask, kwargs),
        return_weights=weights,
    )
    output, signed = found if isinstance(found, tuple) else (found, None)
    return output.transpose(1, 2).contiguous(), signed


def _refuse(module: nn.Module, kwargs: dict[str, Any]) -> None:
    for name, value in kwargs.items():
        if value is None or name in CARRIED:
            continue
        if name in REFUSED:
            raise NotImplementedError(refused_argument(module, name))
        if isinstance(value, Tensor) and name not in ("position_bias", "dropout", "scaling", "softcap"):
            raise NotImplementedError(
                f"{type(module).__name__} passed the tensor {name!r}, which TanhMax attention does not know and will not ignore"
            )
    for size in () if torch.compiler.is_compiling() else ("cp_size", "sp_size"):
        if int(os.environ.get(f"PARALLELISM_CONFIG_{size.upper()}", "1")) > 1:
            raise NotImplementedError(
                "context and sequence parallelism replace softmax attention, which TanhMax does not call, so each rank would see its own "
                f"keys only; set {size} to 1"
            )


def refused_argument(module: nn.Module, argument: str) -> str:
    """Why a module cannot compute TanhMax that passes one of the arguments in `REFUSED`."""
    return f"TanhMax attention has no {REFUSED[argument]}: {type(module).__name__} passed {argument!r}"


def _decoded(module: nn.Module, query: Tensor, new: tuple[Tensor, Tensor], blocks: CachedBlocks, kwargs: dict[str, Any]) -> Tensor:
    """One query of each of many requests, which reads the paged cache where it lies; the requests are the batch."""
    written(kwargs["cache"], *new, _layer_of(module), kwargs)
    found = tanhmax_attention(
        query.transpose(0, 2),
        blocks.key,
        blocks.value,
        is_causal="lower_right",
        scale=kwargs.get("scaling"),
        softcap=kwargs.get("softcap"),
        polarity=_polarity(module, query),
        cu_seqlens=blocks.bounds,
        block_table=blocks.table,
    )
    output = found[0] if isinstance(found, tuple) else found
    return output.permute(2, 0, 1, 3).contiguous()


def _layer_of(module: nn.Module) -> int:
    index = getattr(module, "layer_idx", None)
    if index is None:
        raise NotImplementedError(f"a paged cache needs the layer's index, but {type(module).__name__} has no layer_idx")
    return index


def _split_mask(mask: Any, position_bias: Tensor | None, keys: int, *, paged: bool) -> tuple[Tensor | None, Tensor | None]:
    """Which keys take part, and what multiplies their shares: a floating-point mask says both, and the first lets kernels skip blocks.

    Continuous batching fills its mask with 0 and the least finite number alone, so that the first says it all.
    """
    if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 4):
        what = f"a tensor of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"TanhMax attention takes a 4-dimensional boolean or additive mask, but got {what}")
    additive = None if position_bias is None else position_bias[..., :keys]
    if mask is None:
        return None, additive
    mask = mask[..., :keys]
    if mask.dtype == torch.bool:
        return mask, additive
    if not mask.is_floating_point():
        raise TypeError(f"a 4-dimensional mask must be boolean or floating point, but is {mask.dtype}; use mask.bool()")
    keep = ~hides(mask)
    if paged:
        return keep, additive
    return keep, mask if additive is None else additive + mask


def _bounds(query: Tensor, key: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor | None:
    """The bounds of packed sequences, wherever they can be honoured; without a mask they must be, or sequences would leak."""
    fits = query.shape[0] == 1 and query.shape[2] == key.shape[2] and not in_continuous_batching(kwargs)
    return kwargs.get("cu_seq_lens_q") if fits or mask is None else None


def _is_causal(module: nn.Module, query: Tensor, wanted: bool | None) -> bool:
    """Transformers' order: the argument, then the module, then True; one query sees every key."""
    if query.shape[2] == 1:
        return False
    return bool(getattr(module, "is_causal", True) if wanted is None else wanted)


def heads_of(module: Any) -> int:
    """How many heads an attention module has; under tensor parallelism on all ranks together.

    Raises:
        ValueError: neither the module nor its config says.
    """
    for name in ("num_attention_heads", "num_heads", "n_heads"):
        for holder in (module, module.config):
            if isinstance(found := getattr(holder, name, None), int):
                return found
    raise ValueError(f"cannot tell how many heads {type(module).__name__} has; leave heads None, and polarity a number")


def _polarity(module: nn.Module, query: Tensor) -> float | Tensor:
    config = getattr(module, "config", None)
    polarity, heads = getattr(config, "tanhmax_polarity", 1.0), getattr(config, "tanhmax_heads", None)
    if polarity == LEARNED:
        polarity = torch.exp(-2.0 * _score_bias(module, query))
    if heads is None:
        return polarity
    if query.shape[1] != heads_of(module):
        raise NotImplementedError(
            f"tanhmax_heads counts the {heads_of(module)} heads of the whole {type(module).__name__}, but tensor parallelism shows this "
            f"rank {query.shape[1]} of them and not which; choose layers instead of heads, or set tp_size to 1"
        )
    return torch.where(_head_mask(heads, query), polarity, torch.zeros((), device=query.device))


def _head_mask(chosen: Iterable[int], query: Tensor) -> Tensor:
    """Boolean `[heads]`, True at the chosen ones.

    They come as the bits of numbers, which travel with a kernel's launch; a list would be copied from the host, which waits for the device
    and cannot be captured by a CUDA graph.
    """
    heads = query.shape[1]
    words = [sum(1 << head - first for head in chosen if 0 <= head - first < MASK_BITS) for first in range(0, heads, MASK_BITS)]
    place = torch.arange(MASK_BITS, device=query.device)
    return torch.cat([word >> place & 1 for word in words])[:heads].bool()


def _score_bias(module: nn.Module, query: Tensor) -> Tensor:
    """The score bias of each head of the query; where tensor parallelism shares them out, those of this rank."""
    bias: Any = getattr(module, SCORE_BIAS)
    if hasattr(bias, "to_local"):
        bias = bias.to_local()
    if bias.shape[0] != query.shape[1]:
        raise ValueError(
            f"{type(module).__name__} has {bias.shape[0]} score biases but sees {query.shape[1]} heads: tensor parallelism shares out the "
            f'heads and not the biases; give tp_plan a rule that ends in ".{SCORE_BIAS}": "colwise"'
        )
    if query.requires_grad and module.training and not bias.requires_grad and not torch.compiler.is_compiling():
        _say_frozen()
    return bias


@functools.cache
def _say_frozen() -> None:
    logging.getLogger(__name__).warning(
        "the score biases of a learned polarity are frozen, as PEFT freezes all but its adapters, so the polarity stays as it is; train "
        "them before, or give the model a polarity that is a number"
    )


# hf_tanhmax/names.py
"""Names of models that exist in memory only.

Libraries rebuild a model from its name: TRL its reference model, PEFT the base of an adapter, pipelines a tokenizer. What is in memory only
they would lose, and compute softmax. So the name of such a model is a sentence: it is no folder and no repository, which Hugging Face's
libraries find out without asking the network, and their error quotes it.
"""


REBUILT = "whatever is made from its name: ref_model=copy.deepcopy(model), a tokenizer"
CONVERTED = f", in memory only: save it and load that, or pass {REBUILT}"
PATCHED = f", patched to TanhMax in memory only: save hf_tanhmax.convert(model) and load that, or pass {REBUILT}"


def converted_name(origin: str, attention: str = "TanhMax") -> str:
    """The name of a model that holds the weights of another one, whose own name may be such a sentence."""
    origin = origin.removesuffix(PATCHED)
    if origin.endswith(CONVERTED):
        origin = origin.removesuffix(CONVERTED).partition(" of ")[2]
    return f"{attention} of {origin}{CONVERTED}"


def short_name(name: str) -> str:
    """A name as titles show it: without the sentence, and of a folder its last part alone."""
    name, made = name.removesuffix(PATCHED), ""
    if name.endswith(CONVERTED):
        made, _, name = name.removesuffix(CONVERTED).partition(" of ")
    shown = Path(name).name if Path(name).is_dir() else name
    return f"{made} of {shown}" if made else shown


def rename_patched(model: nn.Module, *, patched: bool) -> None:
    """Let the names of a model, of models inside it and of their adapters say that it is patched, or say what they said before."""
    for owner, attribute in _named_by(model):
        name = getattr(owner, attribute)
        if name:
            setattr(owner, attribute, str(name).removesuffix(PATCHED) + (PATCHED if patched else ""))


def _named_by(model: nn.Module) -> Iterator[tuple[Any, str]]:
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            yield module, "name_or_path"
            yield module.config, "name_or_path"
        for adapter in getattr(module, "peft_config", {}).values():
            yield adapter, "base_model_name_or_path"


# hf_tanhmax/dataflow.py
"""What a module's forward does with the attention interface and with softmax, read from its code without running it.

The code is followed with what is known before it runs: globals, methods, attributes that are None, and the names that a TanhMax config
gives for `_attn_implementation`. So a branch for `"eager"`, which no TanhMax module takes, is not followed, and a default that the
interface never falls back on is not called; what is not known is followed both ways. Of tensors it is known what they come from:

* `input`: an argument of forward, and what is computed from it. Parameters, buffers and masks have no tag;
* `scores`: a product of two inputs;
* `chosen`: some of an input's elements, the largest;
* `log`: a log-softmax, which is no value until it is raised to weights;
* `weights`: a softmax of scores or of an input, but not of what was chosen, which routes;
* `weighed`: weights times an input, before a sum.

**Attention** is a matrix product of weights and another input, or a sum of what is weighed. So a pooling whose learned softmax weighs its
tokens is attention; routers (`topk` takes weights away), output distributions, a softmax over parameters, and expected values of bins or of
a codebook are not. A softmax of scores is an attention map, whatever becomes of it.

Functions are followed where they are called by a name, kept by the module, taken from a table, or handed to another function, which may
call them with inputs. A softmax that is written out, as exponentials over their sum, is not seen.
"""


INPUT, SCORES, CHOSEN, LOG, WEIGHTS, WEIGHED = "input", "scores", "chosen", "log", "weights", "weighed"
INPUTS = frozenset({INPUT})

# What is called, by its name in torch and in the libraries of attention kernels.
NORMALISING = frozenset({"softmax", "_softmax"})
ATTENDING = frozenset(
    {
        "scaled_dot_product_attention",
        "multi_head_attention_forward",
        "flex_attention",
        "compile_friendly_flex_attention",
        "flash_attn_func",
        "flash_attn_varlen_func",
        "flash_attn_qkvpacked_func",
        "flash_attn_with_kvcache",
        "_flash_attention_forward",
        "memory_efficient_attention",
    }
)
MULTIPLYING = frozenset({"matmul", "bmm", "mm", "mv", "baddbmm", "addbmm", "einsum", "tensordot"})
SUMMING = frozenset({"sum", "mean", "nansum"})
CHOOSING = frozenset({"topk", "sort", "max", "gumbel_softmax", "cumsum"})  # what they give weighs nothing any more
# What they give is no input: shapes, indices, masks.
UNTAGGED = frozenset({"shape", "size", "dtype", "device", "ndim", "dim", "numel", "len", "isinstance", "hasattr"}) | frozenset(
    {"argmax", "argmin", "argsort", "multinomial", "one_hot", "nonzero"}
)
ASKING = ("get_interface", "get", "__getitem__")
CONSTANTS = (type(None), bool, int, float, str, tuple)
COMPARISONS: dict[type, Any] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
}
DEPTH = 12  # of calls in calls that are followed
FUTURE = __future__.annotations.compiler_flag

ANYTHING, CONFIG, ASKED, SELF = object(), object(), object(), object()


class Value(NamedTuple):
    """Where a value comes from, what it may be, and its parts if it is a tuple."""

    tags: frozenset[str] = frozenset()
    options: tuple[Any, ...] = (ANYTHING,)
    items: "tuple[Value, ...]" = ()


class Instance(NamedTuple):
    """A module: its class, and those of its attributes that are None, modules or functions."""

    cls: type
    state: tuple[tuple[str, Any], ...] = ()


class Parent(NamedTuple):
    """What `super()` gives: the module, as a class that comes after `cls`."""

    instance: Instance
    cls: type


class Method(NamedTuple):
    """A function of a module's class, or the name of a method of the attention interface, with its owner; `SELF` is the module read."""

    owner: Any
    function: Any


class Frame(NamedTuple):
    """A function that is followed."""

    function: Any
    variables: dict[str, Value]
    returned: list[Value]


class Local(NamedTuple):
    """A function that is defined in another."""

    arguments: ast.arguments
    body: list[ast.stmt]
    frame: Frame


def identity(option: Any) -> Any:
    """Equal for options that are the same object, or the same method of it."""
    return (id(option.owner), id(option.function)) if isinstance(option, Method) else id(option)


def joined(values: Iterable[Value]) -> Value:
    """What is any of several values."""
    values = list(values)
    if len(values) == 1:
        return values[0]
    options = {identity(option): option for value in values for option in value.options}
    lengths = {len(value.items) for value in values}
    items = tuple(map(joined, zip(*(value.items for value in values), strict=True))) if len(lengths) == 1 else ()
    return Value(tagged(values).tags, tuple(options.values()) or (ANYTHING,), items)


def tagged(values: Iterable[Value]) -> Value:
    """What is computed from several values."""
    return Value(frozenset().union(*(value.tags for value in values)))


def truth_of(value: Value) -> bool | None:
    """Whether a value is true; None if it is not known."""
    known = {bool(option) if isinstance(option, CONSTANTS) else None if option is ANYTHING else True for option in value.options}
    return known.pop() if len(known) == 1 else None


@dataclass
class Findings:
    """What was found in the code of a module, and what functions of tensors make of their arguments.

    Attributes:
        asks: it calls what the attention interface gives for `self.config._attn_implementation`.
        attends: it computes softmax attention itself: weights that are a softmax of scores.
        pools: it weighs inputs by a softmax of anything that depends on them.
        maps: it computes a softmax of scores, whatever becomes of it.
        normalises: it computes a softmax of an input.
        passes: names of the arguments that it hands to the interface, and that may be other than None.
    """

    asks: bool = False
    attends: bool = False
    pools: bool = False
    maps: bool = False
    normalises: bool = False
    passes: set[str] = field(default_factory=set)

    def tensors(self, option: Any, name: str, values: list[Value]) -> Value:
        """What a function gives that is known by its name, or a module that is known by its class."""
        result = tagged(values)
        if name in ATTENDING or "scaled_dot_product" in name:
            self.attends = True
        scripted = isinstance(option, torch.jit.ScriptFunction) and "softmax" in str(option.code)
        if name in NORMALISING or scripted or (isinstance(option, Instance) and issubclass(option.cls, nn.Softmax)):
            return self.softmax(result)
        if name == "log_softmax" and INPUT in result.tags:
            return Value(result.tags - {INPUT} | {LOG})
        if name == "exp" and LOG in result.tags:
            return self.softmax(Value(result.tags - {LOG} | {INPUT}))
        if name in MULTIPLYING:
            return self.product(values)
        if name in ("mul", "multiply", "mul_"):
            return self.weighed(values)
        if name in SUMMING and WEIGHED in result.tags:
            self.pools = True
            self.attends |= SCORES in result.tags
        if name in CHOOSING:
            return Value(result.tags - {WEIGHTS, WEIGHED} | {CHOSEN})
        return Value() if name in UNTAGGED else result

    def softmax(self, value: Value) -> Value:
        """A softmax of parameters alone gives no weights."""
        if INPUT not in value.tags:
            return Value(value.tags)
        self.normalises = True
        self.maps |= SCORES in value.tags
        return Value(value.tags | {WEIGHTS} if SCORES in value.tags or CHOSEN not in value.tags else value.tags)

    def product(self, values: list[Value]) -> Value:
        """A matrix product, also of the items of a list."""
        values = [each for value in values for each in value.items or (value,)]
        inputs = [value for value in values if INPUT in value.tags]
        tags = tagged(values).tags
        if len(inputs) < 2:
            return Value(tags - {WEIGHTS, WEIGHED})
        if WEIGHTS in tags and any(WEIGHTS not in value.tags for value in inputs):
            self.pools = True
            self.attends |= any({WEIGHTS, SCORES} <= value.tags for value in inputs)
        return Value(tags - {WEIGHTS, WEIGHED} | {SCORES})

    def weighed(self, values: list[Value]) -> Value:
        """An elementwise product."""
        tags = tagged(values).tags
        if WEIGHTS in tags and any(INPUT in value.tags and WEIGHTS not in value.tags for value in values):
            tags |= {WEIGHED}
        return Value(tags)


def tree_of(code: types.CodeType) -> ast.FunctionDef | None:
    """The syntax of a function, or None where its source is not to be had, or has changed since it was compiled."""
    return _tree_of(code, code.co_filename)  # which code objects do not compare


@functools.lru_cache(maxsize=4096)
def _tree_of(code: types.CodeType, filename: str) -> ast.FunctionDef | None:
    # `inspect.getsource` would look through every imported module for the one that holds the code.
    source = textwrap.dedent("".join(inspect.getblock(linecache.getlines(filename)[code.co_firstlineno - 1 :])))
    try:
        tree = ast.parse(source).body
        # Alone, a function has no variables of an outer one to rebind.
        compiled = compile(
            re.sub(r"(?m)^(\s*)nonlocal\b", r"\1global", source), filename, "exec", code.co_flags & FUTURE, dont_inherit=True
        )
    except SyntaxError:
        return None
    fits = any(_words(each) == _words(code) for each in compiled.co_consts if isinstance(each, types.CodeType))
    return tree[0] if fits and isinstance(tree[0], ast.FunctionDef) and tree[0].name == code.co_name else None


def _words(code: types.CodeType) -> set[str]:
    """Names and constants in a code object and in those inside of it, as they stand in its source."""
    names = [*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars]
    found = {name.rpartition("__")[2] for name in names} - {""}  # without the class that Python puts before private names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _words(constant)
        elif "<locals>" not in str(constant):  # the name of an inner function, which says where it stood
            found.add("".join(str(constant).split()))
    return found


def names_of(code: types.CodeType) -> tuple[list[str], list[str]]:
    """Names in a code object and in those inside of it; then names of keywords of its calls, and "@" where it multiplies matrices."""
    names, others = list(code.co_names), []
    for instruction in dis.get_instructions(code):
        if instruction.opname == "BINARY_MATRIX_MULTIPLY" or (instruction.opname == "BINARY_OP" and "@" in instruction.argrepr):
            others.append("@")
    for constant in code.co_consts:
        if isinstance(constant, tuple):
            others += [each for each in constant if isinstance(each, str)]
        if isinstance(constant, types.CodeType):
            inner = names_of(constant)
            names, others = names + inner[0], others + inner[1]
    return list(dict.fromkeys(names)), others


def bound(arguments: ast.arguments, args: list[Value], keywords: dict[str, Value], defaults: dict[str, Any]) -> dict[str, Value]:
    """The variables that a call begins with. Where a call has `*` or `**`, any argument may come from there."""
    positional = [each.arg for each in [*arguments.posonlyargs, *arguments.args]]
    names = [*positional, *(each.arg for each in arguments.kwonlyargs)]
    rest = keywords.get("**")
    variables = {name: Value(options=(defaults[name],)) if name in defaults else Value() for name in names}
    if rest is not None:
        variables = {name: Value() if "mask" in name else Value(rest.tags) for name in names}
    variables |= dict(zip(positional, args, strict=False)) | {name: value for name, value in keywords.items() if name in names}
    spare = [Value() if "mask" in name else value for name, value in keywords.items() if name not in names]
    if arguments.vararg:
        extra = tuple(args[len(positional) :])
        variables[arguments.vararg.arg] = Value(tagged([*extra, *([rest] if rest else [])]).tags, items=extra)
    if arguments.kwarg:
        variables[arguments.kwarg.arg] = tagged(spare)
    return variables


def defaults_of(function: types.FunctionType) -> dict[str, Any]:
    """The default of each parameter that has one."""
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def of_torch(function: Any) -> bool:
    """Whether a function or class is PyTorch's own."""
    return (getattr(function, "__module__", None) or "").partition(".")[0] == "torch"


def unbound(function: Any) -> Any:
    """A bound method, a partial or an object as the function that it calls and what comes before its arguments, without holding them."""
    while isinstance(function, types.MethodType | functools.partial):
        if isinstance(function, functools.partial):
            first, function = function.args[:1], function.func
        else:
            first, function = (function.__self__,), function.__func__
        if first and isinstance(function, types.FunctionType):
            return Method(SELF if isinstance(first[0], nn.Module) else ANYTHING, function)
    call = type(function).__call__
    if isinstance(call, types.FunctionType) and not of_torch(call) and not isinstance(function, nn.Module | type):
        return Method(ANYTHING, call)
    return function


def found_in(classes: Iterable[type], owner: Instance, name: str) -> Any:
    """An attribute of a module that the first of several classes has."""
    for cls in classes:
        if name in vars(cls):
            found = vars(cls)[name]
            function = getattr(found, "fget", None) or getattr(found, "__func__", found)
            if not callable(function) or isinstance(function, type):
                return found if found is None or isinstance(found, bool | str) else ANYTHING
            if of_torch(function):
                return ANYTHING
            return function if isinstance(found, staticmethod) else Method(owner, function)
    return ANYTHING


def entries(table: dict[Any, Any], key: Any) -> tuple[Any, ...]:
    """What a table may hold for a key."""
    known = isinstance(key, CONSTANTS) and dict.__contains__(table, key)
    return (dict.__getitem__(table, key),) if known else tuple(filter(callable, dict.values(table))) or (ANYTHING,)


def is_property(owner: Any, name: str) -> bool:
    """Whether an attribute of a module is computed when it is read."""
    return isinstance(owner, Instance) and isinstance(inspect.getattr_static(owner.cls, name, None), property)


def parent(frame: Frame, args: list[Value]) -> Any:
    """What `super` gives inside of a function."""
    function = frame.function
    if len(args) == 2:
        cls, instance = args[0].options[0], args[1].options[0]
    else:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        cls = cells["__class__"].cell_contents if "__class__" in cells else None
        instance = next(iter(frame.variables.values()), Value()).options[0]
    if not isinstance(instance, Instance):
        return ANYTHING
    return Parent(instance, cls if isinstance(cls, type) else instance.cls)


def global_of(function: Any, name: str) -> Any:
    """What a name means in a function, other than its variables."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if name in cells:
        try:
            return cells[name].cell_contents
        except ValueError:  # not filled yet
            return ANYTHING
    return function.__globals__.get(name, getattr(builtins, name, ANYTHING))


# hf_tanhmax/reading.py
"""Follows the code of a forward: see `dataflow` for what it looks for."""


CALLED = (Local, Method, types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)


class Reading:
    """One pass over the code that a module's forward runs.

    Args:
        instance: the module.
        labels: what its config may answer for `_attn_implementation`.

    Attributes:
        found: what was found.
    """

    def __init__(self, instance: Instance, labels: tuple[str, ...]) -> None:
        self.instance, self.labels, self.found = instance, labels, Findings()
        self._active: list[Any] = []
        self._results: dict[Any, tuple[Value, Any]] = {}

    def follow(self, function: Any) -> Value:
        """What a function or method gives for inputs as all of its arguments."""
        return self._apply(function, "forward", Value(), [], {"**": Value(INPUTS)})

    # Calls

    def _call(self, node: ast.Call, frame: Frame) -> Value:
        args: list[Value] = []
        rest: list[Value] = []
        for each in node.args:
            value = self._value(each, frame)
            if isinstance(each, ast.Starred):
                args += value.items
                rest.append(Value(value.tags))
            else:
                args.append(value)
        keywords = {each.arg or "**": self._value(each.value, frame) for each in node.keywords}
        if rest:
            keywords["**"] = tagged([*rest, *([keywords["**"]] if "**" in keywords else [])])
        owner, name = Value(), getattr(node.func, "id", "")
        if isinstance(node.func, ast.Attribute):
            owner, name = self._value(node.func.value, frame), node.func.attr
            callee = self._member(owner, name)
            if name in ("append", "extend", "insert") or (name.endswith("_") and not name.startswith("_")):  # changes its owner
                self._assign(node.func.value, joined([owner, tagged(args)]), frame)
        else:
            callee = self._value(node.func, frame)
        return joined(self._apply(option, name, owner, args, keywords, frame) for option in callee.options)

    def _apply(
        self, option: Any, name: str, owner: Value, args: list[Value], keywords: dict[str, Value], frame: Frame | None = None
    ) -> Value:
        option = unbound(option)
        if isinstance(option, Method):
            if isinstance(option.owner, AttentionInterface):
                return self._ask(args[0]) if option.function in ASKING and args else Value()
            args, option = [Value(options=(self.instance if option.owner is SELF else option.owner,)), *args], option.function
        everything = [owner, *args, *keywords.values()]
        if option is ASKED:
            self.found.asks = True
            self.found.passes |= {key for key, value in keywords.items() if any(known is not None for known in value.options)}
            return Value(INPUTS)
        if isinstance(option, type) and issubclass(option, nn.Module):  # made where it is called
            return Value(options=(Instance(option),))
        if option is super and frame is not None:
            return Value(options=(parent(frame, args),))
        if option is getattr and len(args) > 1 and isinstance(args[1].options[0], str):
            return self._member(args[0], args[1].options[0], args[2:])
        if isinstance(option, Local):
            variables = {**option.frame.variables, **bound(option.arguments, args, keywords, {})}
            return self._run(option.body, option.body, Frame(option.frame.function, variables, []), everything)
        if isinstance(option, types.FunctionType) and not of_torch(option):
            self.found.attends |= name in ATTENDING or option.__name__ in ATTENDING
            tree = tree_of(option.__code__)
            if tree is None:
                return self._unread(option, everything)
            variables = bound(tree.args, args, keywords, defaults_of(option))
            return self._run(option, tree.body, Frame(option, variables, []), everything)
        result = self.found.tensors(option, name if option is ANYTHING else getattr(option, "__name__", name), everything)
        handed = [each for value in (*args, *keywords.values()) for each in value.options if each is ASKED or isinstance(each, CALLED)]
        given = [self._apply(each, "", Value(), [], {**keywords, "**": Value(INPUTS)}) for each in handed]
        return joined([result, tagged(given)]) if given else result

    def _run(self, key: Any, body: list[ast.stmt], frame: Frame, everything: list[Value]) -> Value:
        """Follow a function, unless it is being followed already."""
        if any(key is active for active in self._active) or len(self._active) >= DEPTH:
            return tagged(everything)
        given = dict(frame.variables)
        call = (id(key), *((name, value.tags, *map(identity, value.options)) for name, value in given.items()))
        if call not in self._results:
            self._active.append(key)
            self._block(body, frame)
            self._active.pop()
            result = joined(frame.returned) if frame.returned else tagged(everything)
            self._results[call] = result, given  # kept alive, as the key names objects by their ids
        return self._results[call][0]

    def _ask(self, label: Value) -> Value:
        """What the interface gives: TanhMax for the name that a TanhMax config answers, and softmax for any other."""
        if all(isinstance(option, str) and option in self.labels for option in label.options):
            return Value(options=(ASKED,))
        self.found.attends = True
        return Value(INPUTS)

    def _unread(self, function: types.FunctionType, everything: list[Value]) -> Value:
        """A function without source is taken to do all that it names, but to call a default that it hands to the interface."""
        if any(function is active for active in self._active):
            return tagged(everything)
        self._active.append(function)
        names, others = names_of(function.__code__)
        known = {name: global_of(function, name) for name in names}
        asks = any(isinstance(each, AttentionInterface) for each in known.values())
        self.found.asks |= asks and "_attn_implementation" in names
        self.found.attends |= asks and "_attn_implementation" not in names
        above = parent(Frame(function, {"self": Value(options=(self.instance,))}, []), []) if "super" in names else ANYTHING
        softmaxes = {"Softmax": "softmax", "log_softmax": "softmax" if "exp" in names else "log_softmax"}
        for name, each in known.items():
            members = [option for owner in (self.instance, above) for option in self._member(Value(options=(owner,)), name).options]
            self.found.passes |= {name} if asks and name in others and None not in members else set()
            default = asks and isinstance(each, types.FunctionType) and next(iter(inspect.signature(each).parameters), "") == "module"
            applied = self._attribute(each, "apply", None).options if isinstance(each, type) else ()
            for option in [*([] if default else [each]), *members, *applied]:
                if isinstance(option, Method | types.FunctionType):
                    self._apply(option, name, Value(), [], {"**": Value(INPUTS)})
                elif self.found.tensors(
                    option, softmaxes.get(called := getattr(option, "__name__", name), called), [Value(INPUTS)]
                ).tags >= {WEIGHTS}:
                    self.found.pools |= not MULTIPLYING.union(SUMMING, "@").isdisjoint([*names, *others])
        self.found.passes |= {name for name in others if asks and name not in known and name.isidentifier()}
        self._active.pop()
        return tagged(everything)

    # Statements; each says whether what follows it is not reached

    def _block(self, statements: list[ast.stmt], frame: Frame) -> bool:
        return any(self._statement(statement, frame) for statement in statements)

    def _statement(self, node: ast.stmt, frame: Frame) -> bool:
        if isinstance(node, ast.Return | ast.Raise | ast.Break | ast.Continue):
            if isinstance(node, ast.Return):
                frame.returned.append(self._value(node.value, frame) if node.value else Value(options=(None,)))
            return True
        if isinstance(node, ast.If):
            truth = truth_of(self._value(node.test, frame))
            if truth is not None:
                return self._block(node.body if truth else node.orelse, frame)
            return self._branches([node.body, node.orelse], frame)
        if isinstance(node, ast.For | ast.While):
            if isinstance(node, ast.For):
                self._assign(node.target, Value(self._value(node.iter, frame).tags), frame)
            for _ in range(2):  # what one turn leaves is what the next begins with
                self._branches([node.body, []], frame)
            self._block(node.orelse, frame)
        elif isinstance(node, ast.With):
            for item in node.items:
                value = self._value(item.context_expr, frame)
                if item.optional_vars:
                    self._assign(item.optional_vars, value, frame)
            return self._block(node.body, frame)
        elif isinstance(node, ast.Try):
            self._branches([[*node.body, *node.orelse], *([*node.body, *each.body] for each in node.handlers)], frame)
            return self._block(node.finalbody, frame)
        elif isinstance(node, ast.Match):
            self._branches([[], *(case.body for case in node.cases)], frame)
        elif isinstance(node, ast.FunctionDef):
            frame.variables[node.name] = Value(options=(Local(node.args, node.body, frame),))
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            self._assignment(node, frame)
        elif isinstance(node, ast.Expr):
            self._value(node.value, frame)
        return False

    def _branches(self, blocks: list[list[ast.stmt]], frame: Frame) -> bool:
        """Any of several blocks is run."""
        before, after = dict(frame.variables), []
        for block in blocks:
            frame.variables.clear()
            frame.variables.update(before)
            if not self._block(block, frame) or any(isinstance(each, ast.Break | ast.Continue) for each in ast.walk(ast.Module(block, []))):
                after.append(dict(frame.variables))
        frame.variables.clear()
        for name in {name: None for variables in after for name in variables}:
            frame.variables[name] = joined(variables[name] for variables in after if name in variables)
        return not after

    def _assignment(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, frame: Frame) -> None:
        if isinstance(node, ast.AugAssign):
            value = self._operation(node.op, [self._value(node.target, frame), self._value(node.value, frame)])
        elif node.value is None:
            return
        else:
            value = self._value(node.value, frame)
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            self._assign(target, value, frame)

    def _assign(self, target: ast.expr, value: Value, frame: Frame) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            items = value.items if len(value.items) == len(target.elts) else [Value(value.tags)] * len(target.elts)
            for each, item in zip(target.elts, items, strict=True):
                self._assign(each, item, frame)
        elif isinstance(target, ast.Subscript):  # changes a part
            self._assign(target.value, joined([self._value(target.value, frame), Value(value.tags)]), frame)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, value, frame)
        elif isinstance(target, ast.Name | ast.Attribute):
            frame.variables[ast.unparse(target)] = value

    # Expressions

    def _value(self, node: ast.AST, frame: Frame) -> Value:
        if isinstance(node, ast.Constant):
            return Value(options=(node.value,))
        if isinstance(node, ast.Name):
            return frame.variables.get(node.id) or Value(options=(global_of(frame.function, node.id),))
        if isinstance(node, ast.Attribute):
            return frame.variables.get(ast.unparse(node)) or self._member(self._value(node.value, frame), node.attr)
        if isinstance(node, ast.Call):
            return self._call(node, frame)
        if isinstance(node, ast.BinOp):
            return self._operation(node.op, [self._value(node.left, frame), self._value(node.right, frame)])
        if isinstance(node, ast.Compare):
            return self._comparison(node, frame)
        if isinstance(node, ast.BoolOp):
            return self._logical(node, frame)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            truth = truth_of(self._value(node.operand, frame))
            return Value(options=(ANYTHING if truth is None else not truth,))
        if isinstance(node, ast.IfExp):
            truth = truth_of(self._value(node.test, frame))
            chosen = [node.body, node.orelse] if truth is None else [node.body if truth else node.orelse]
            return joined(self._value(each, frame) for each in chosen)
        if isinstance(node, ast.Tuple | ast.List):
            items = tuple(self._value(each, frame) for each in node.elts)
            known = all(len(item.options) == 1 and isinstance(item.options[0], CONSTANTS) for item in items)
            starred = any(isinstance(each, ast.Starred) for each in node.elts)
            options = (tuple(item.options[0] for item in items),) if known else (ANYTHING,)
            return Value(tagged(items).tags, options, () if starred else items)
        if isinstance(node, ast.Subscript):
            return self._part(node, frame)
        if isinstance(node, ast.Starred):
            return self._value(node.value, frame)
        if isinstance(node, ast.NamedExpr):
            self._assign(node.target, value := self._value(node.value, frame), frame)
            return value
        if isinstance(node, ast.Lambda):
            return Value(options=(Local(node.args, [ast.Return(node.body)], frame),))
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            for generator in node.generators:
                self._assign(generator.target, Value(self._value(generator.iter, frame).tags), frame)
        return tagged(self._value(each, frame) for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr))

    def _member(self, owner: Value, name: str, default: list[Value] | None = None) -> Value:
        """An attribute of a value, or what `getattr` gives instead."""
        found = [self._attribute(option, name, default) for option in owner.options]
        return Value(frozenset() if name in UNTAGGED else owner.tags | joined(found).tags, joined(found).options)

    def _attribute(self, owner: Any, name: str, default: list[Value] | None) -> Value:
        if owner is CONFIG:
            return Value(options=self.labels if name == "_attn_implementation" else (ANYTHING,))
        if isinstance(owner, AttentionInterface):
            return default[0] if default else Value(options=(Method(owner, name),))  # it has no attributes but methods
        if isinstance(owner, Instance):
            state = dict(owner.state)
            if name == "config":
                return Value(options=(CONFIG if owner is self.instance else ANYTHING,))
            found = state[name] if name in state else found_in(owner.cls.__mro__, owner, name)
            if isinstance(found, Method) and is_property(owner, name):
                return self._apply(found, name, Value(), [], {})
            return Value(options=(found,))
        if isinstance(owner, Parent):
            order = owner.instance.cls.__mro__
            return Value(options=(found_in(order[order.index(owner.cls) + 1 :] if owner.cls in order else (), owner.instance, name),))
        if isinstance(owner, type) and issubclass(owner, torch.autograd.Function) and name == "apply":
            return Value(options=(Method(ANYTHING, inspect.getattr_static(owner, "forward").__func__),))
        if isinstance(owner, types.ModuleType):
            return Value(options=(vars(owner).get(name, ANYTHING),))
        if isinstance(owner, type):
            found = inspect.getattr_static(owner, name, ANYTHING)
            return Value(options=(getattr(found, "__func__", found),))
        return Value()

    def _operation(self, operation: ast.operator, values: list[Value]) -> Value:
        if isinstance(operation, ast.MatMult):
            return self.found.product(values)
        return self.found.weighed(values) if isinstance(operation, ast.Mult) else tagged(values)

    def _comparison(self, node: ast.Compare, frame: Frame) -> Value:
        """True or False where both sides are known. A mask has no tag."""
        left, right = self._value(node.left, frame), self._value(node.comparators[0], frame)
        compare = COMPARISONS.get(type(node.ops[0])) if len(node.ops) == 1 else None
        if compare is None:
            return Value()
        results = set()
        for one in left.options:
            for other in right.options:
                comparable = isinstance(one, CONSTANTS) and isinstance(other, CONSTANTS)
                if isinstance(node.ops[0], ast.In | ast.NotIn):
                    comparable = isinstance(other, tuple) or (isinstance(one, str) and isinstance(other, str))
                    comparable &= isinstance(one, CONSTANTS)
                elif other is None:
                    comparable = one is not ANYTHING
                results.add(compare(one, other) if comparable else ANYTHING)
        return Value(options=tuple(results))

    def _logical(self, node: ast.BoolOp, frame: Frame) -> Value:
        """`and` and `or`, as far as they are evaluated."""
        decisive = isinstance(node.op, ast.Or)
        values: list[Value] = []
        for each in node.values:
            value = self._value(each, frame)
            truth = truth_of(value)
            if truth is decisive:
                return value if not values or isinstance(node.op, ast.And) else joined([*values, value])
            if truth is None or each is node.values[-1]:
                values.append(value)
        return joined(values)

    def _part(self, node: ast.Subscript, frame: Frame) -> Value:
        owner, index = self._value(node.value, frame), self._value(node.slice, frame)
        if any(isinstance(option, AttentionInterface) for option in owner.options):
            return self._ask(index)
        position = index.options[0]
        if owner.items and isinstance(position, int) and -len(owner.items) <= position < len(owner.items):
            return owner.items[position]
        held = [each for option in owner.options if isinstance(option, dict) for each in entries(option, position)]
        held += [option for option in owner.options if isinstance(option, Instance)]  # of a list of modules
        return Value(owner.tags, tuple(held) or (ANYTHING,))


# hf_tanhmax/detection.py
"""Which modules of a model compute attention, and how: by asking Transformers' attention interface, or by themselves.

Transformers has no public way to ask. What a module's forward does is read from its code (`reading`), once per class.
"""


class AttentionFacts(NamedTuple):
    """What a module does.

    Attributes:
        asks: it asks the attention interface, for what its own config answers, so that it can be patched.
        bypasses: it computes softmax attention that no patch reaches.
        refused: arguments that it hands to the interface, and that TanhMax attention refuses.
    """

    asks: bool = False
    bypasses: bool = False
    refused: tuple[str, ...] = ()


def attention_facts(module: nn.Module) -> AttentionFacts:
    """What a module does with attention, not counting its children."""
    cls: Any = type(module)
    if isinstance(module, nn.MultiheadAttention):
        return AttentionFacts(bypasses=True)
    if of_torch(cls):
        return AttentionFacts()
    # The class's own forward too: whatever an instance's forward is, it may call that.
    forwards = [*_unwrapped(cls.forward), *([] if of_torch(cls.__call__) else _unwrapped(cls.__call__))]
    forwards += _unwrapped(vars(module)["forward"]) if "forward" in vars(module) else []
    methods = tuple(Method(SELF, each) if inspect.isfunction(each) else unbound(each) for each in forwards)
    state = _state(module)
    # What is made for one instance may hold it, and a cache would keep it alive.
    per_class = "forward" not in vars(module) and all(_holds_nothing(value) for _, value in state)
    read = _facts if per_class else _facts.__wrapped__
    return read(cls, methods, state, hasattr(module, "config"))


def _unwrapped(forward: Any) -> list[Any]:
    """A decorated function, and what the decorator hides."""
    found = [forward]
    while hasattr(found[-1], "__wrapped__"):
        found.append(found[-1].__wrapped__)
    return found


def _holds_nothing(value: Any) -> bool:
    """Whether what a module keeps, a function or a child's class, keeps no object alive."""
    function = value.function if isinstance(value, Method) else value
    if isinstance(function, types.FunctionType):
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        plain = all(isinstance(default, bool | int | float | str | None) for default in defaults)
        return of_torch(function) or (plain and not function.__closure__ and not vars(function))
    if isinstance(function, types.BuiltinFunctionType):
        return isinstance(function.__self__, types.ModuleType | type | None)
    return function is None or isinstance(function, Instance)


@functools.lru_cache(maxsize=4096)
def _facts(cls: Any, forwards: tuple[Any, ...], state: tuple[tuple[str, Any], ...], has_config: bool) -> AttentionFacts:
    reading = Reading(Instance(cls, state), (FUSED, EAGER, PAGED))
    for forward in forwards:
        reading.follow(forward)
    found = reading.found
    # A model's own forward may match two sets by a softmax of similarities, which is no attention until it weighs values.
    whole = issubclass(cls, PreTrainedModel)
    named = found.normalises and "Attention" in cls.__name__  # which is then taken at its word
    stays = (
        found.attends
        or (found.pools and not whole)
        or (found.asks and (whole or not has_config))
        or ((found.maps or named) and not found.asks and not whole)
    )
    return AttentionFacts(
        asks=found.asks and has_config and not whole,
        bypasses=stays,
        refused=tuple(sorted(found.passes.intersection(REFUSED))),
    )


def _state(module: nn.Module) -> tuple[tuple[str, Any], ...]:
    """Those attributes of a module that decide what its forward does: what is None, functions, and modules by their class."""
    found: dict[str, Any] = {}
    for name, value in vars(module).items():
        if value is None and not name.startswith("_"):
            found[name] = None
        elif callable(value) and isinstance(called := unbound(value), Method | types.FunctionType | types.BuiltinFunctionType):
            found[name] = called
    for name, value in [*module._parameters.items(), *module._buffers.items(), *module._modules.items()]:
        if value is None:
            found[name] = None
        elif isinstance(value, nn.Module):
            container = isinstance(value, nn.Sequential | nn.ModuleList | nn.ModuleDict)
            softmax = any(map(_is_softmax, value.children() if container else [value]))
            found[name] = Instance(nn.Softmax if softmax else type(value))
    return tuple(found.items())


def _is_softmax(module: nn.Module) -> bool:
    """Whether a module without parameters gives a softmax of its input."""
    cls: Any = type(module)
    plain = not (module._parameters or module._modules or of_torch(cls))
    return isinstance(module, nn.Softmax) or (plain and _gives_weights(cls))


@functools.lru_cache(maxsize=4096)
def _gives_weights(cls: Any) -> bool:
    return WEIGHTS in Reading(Instance(cls), (FUSED, EAGER, PAGED)).follow(Method(SELF, cls.forward)).tags


# hf_tanhmax/patching.py
"""Turn the attention of a live model into TanhMax, layer by layer, and back.

Attention modules of Transformers ask `self.config._attn_implementation` which function to call. A patched module gets a view of its
config that answers this one question with TanhMax, and passes everything else through. So `eager` and `sdpa` keep their meaning (with
weights; fast, without weights), nothing is copied or replaced, nothing global changes, and putting the config back undoes it.
"""


# What the config says, and the function that stands for it. Any other name computes softmax and is refused.
FUNCTIONS = {"eager": EAGER, "sdpa": FUSED, "paged|eager": PAGED, "paged|sdpa": PAGED, FUSED: FUSED, EAGER: EAGER}


class ConfigView:
    """A config as a TanhMax attention module sees it.

    Args:
        config: the config, or another view, that all else is passed through to.
        settings: what this view answers for itself; None where the config itself holds TanhMax settings.
        owned: whether the view belongs to a TanhMax class, so that `restore` must leave it.
    """

    def __init__(self, config: Any, settings: TanhMaxSettings | None = None, *, owned: bool = False) -> None:
        vars(self)["_config"] = config
        vars(self)["owned"] = owned
        if settings is not None:
            vars(self)["tanhmax_polarity"] = settings.polarity
            vars(self)["tanhmax_heads"] = settings.heads

    @property
    def _attn_implementation(self) -> str:
        name = self._config._attn_implementation
        if name is None:
            raise ValueError(
                'attn_implementation is None, for which Transformers makes no mask, so padding would be seen; set it to "sdpa" or "eager"'
            )
        if name not in FUNCTIONS:
            raise ValueError(
                f'attn_implementation="{name}" computes softmax, but this layer is set to TanhMax; use "sdpa" (fast) or "eager" '
                "(returns weights), or restore the model first"
            )
        return FUNCTIONS[name]

    def __getattr__(self, name: str) -> Any:
        if name == "_config":  # while unpickling there is no config yet
            raise AttributeError(name)
        return getattr(self._config, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self):
            vars(self)[name] = value
        else:
            setattr(self._config, name, value)


def use_tanhmax(model: nn.Module, settings: TanhMaxSettings | None = None) -> int:
    """Make a live model compute TanhMax attention, in place. It is not saved with the model; `hf_tanhmax.convert` makes one that is.

    Args:
        model: any Transformers model that uses the attention interface, also inside PEFT, DDP or `torch.compile`.
        settings: polarity, layers and heads; None is TanhMax everywhere. Layers that are not chosen stay as they are.

    Returns:
        The number of attention modules patched.

    Raises:
        ValueError: no attention module asks the interface, some bypass it, or a layer or head does not exist.
        NotImplementedError: a chosen module has attention sinks or selects keys sparsely.
    """
    patched = _patch(model, settings or TanhMaxSettings())
    rename_patched(model, patched=True)
    return len(patched)


def restore(model: nn.Module) -> int:
    """Undo every `use_tanhmax` on a model; returns the number of attention modules restored.

    Raises:
        ValueError: the model is TanhMax by its class, which `to_softmax` converts; or nothing is patched.
    """
    restored = owned = 0
    for module in model.modules():
        view = getattr(module, "config", None)
        while isinstance(view, ConfigView) and not view.owned:
            view = view._config
        if view is not getattr(module, "config", None):
            _put_back(module, view)
            restored += 1
            if not isinstance(view, ConfigView):
                _drop_score_bias(module)
        owned += isinstance(view, ConfigView)
    if not restored:
        reason = "is TanhMax by its class; use hf_tanhmax.to_softmax" if owned else "computes no TanhMax"
        raise ValueError(f"nothing to restore: {type(model).__name__} {reason}")
    rename_patched(model, patched=False)
    return restored


@contextmanager
def tanhmax_on(
    model: nn.Module,
    *,
    layers: Any = None,
    heads: Any = None,
    polarity: float = 1.0,
) -> Iterator[nn.Module]:
    """Compute TanhMax inside a `with` block, in some layers and heads, and put everything back after it; blocks nest.

    Args:
        model: as for `use_tanhmax`.
        layers: indices of layers; None is all.
        heads: indices of heads; None is all. The other heads of those layers compute softmax inside the block.
        polarity: 1 is TanhMax, 0 softmax.

    Raises:
        ValueError, TypeError, NotImplementedError: as `use_tanhmax` and `TanhMaxSettings`; a learned polarity needs `use_tanhmax`.
    """
    settings = TanhMaxSettings(polarity=polarity, layers=layers, heads=heads)
    if settings.learned:
        raise ValueError('polarity="learned" adds parameters to the model, which a block cannot undo; call use_tanhmax instead')
    before = [(module, module.config) for module in attention_modules(model)]
    _patch(model, settings)
    rename_patched(model, patched=True)
    try:
        yield model
    finally:
        for module, config in before:
            _put_back(module, config)
        rename_patched(model, patched=any(isinstance(config, ConfigView) and not config.owned for _, config in before))


def set_polarity(model: nn.Module, polarity: float) -> None:
    """Set the polarity of every TanhMax layer of a model, and in the config that will be saved with it.

    Raises:
        ValueError: outside [0, 1], nothing computes TanhMax, or the polarity is learned.
    """
    if not isinstance(check_polarity(polarity), float):
        raise TypeError("polarity must be a number; a polarity per head is learned: TanhMaxSettings(polarity='learned')")
    views = [view for module in model.modules() if isinstance(view := getattr(module, "config", None), ConfigView)]
    if not views:
        raise ValueError(f"{type(model).__name__} computes no TanhMax, so it has no polarity to set; call use_tanhmax first")
    for view in views:
        if TanhMaxSettings(polarity=view.tanhmax_polarity).learned:
            raise ValueError("the polarity of this model is learned, one score bias per head; it cannot be set")
        view.tanhmax_polarity = float(polarity)


def attention_modules(model: nn.Module) -> list[Any]:
    """The modules of a model that ask Transformers' attention interface which function to call, in the model's order."""
    return [module for module in model.modules() if attention_facts(module).asks]


def own(model: PreTrainedModel) -> None:
    """Patch a model of a TanhMax class, whose config holds the settings; what is patched already stays."""
    settings = model.config.tanhmax_settings
    chosen = _chosen_modules(model, settings)
    for module in chosen:
        if not isinstance(module.config, ConfigView):
            _patch_module(module, ConfigView(module.config, owned=True), settings)


def _patch(model: nn.Module, settings: TanhMaxSettings) -> list[Any]:
    chosen = _chosen_modules(model, settings)
    for module in chosen:
        _patch_module(module, ConfigView(module.config, replace(settings, layers=None)), settings)
    return chosen


def _patch_module(module: Any, view: ConfigView, settings: TanhMaxSettings) -> None:
    if settings.learned and getattr(module, SCORE_BIAS, None) is None:
        add_score_bias(module, settings.score_bias)
    module.config = view
    put_off_updates(module)


def _put_back(module: Any, config: Any) -> None:
    module.config = config
    if not isinstance(config, ConfigView):
        update_at_once(module)


def add_score_bias(module: Any, value: float) -> None:
    """Give an attention module a score bias per head, float32, on the device where it computes."""
    start = torch.full((heads_of(module),), value, dtype=torch.float32, device=_device_of(module))
    module.register_parameter(SCORE_BIAS, nn.Parameter(start))


def _device_of(module: nn.Module) -> torch.device:
    """Where a module computes: accelerate may keep its weights elsewhere, and bring them there for every call."""
    owner, weight = next(
        (each, value) for each in module.modules() for name, value in each.named_parameters(recurse=False) if name != SCORE_BIAS
    )
    brought_to = getattr(getattr(owner, "_hf_hook", None), "execution_device", None)
    return weight.device if brought_to is None else torch.device(brought_to)


def _drop_score_bias(module: nn.Module) -> None:
    if SCORE_BIAS in module._parameters:
        delattr(module, SCORE_BIAS)


def _chosen_modules(model: nn.Module, settings: TanhMaxSettings) -> list[Any]:
    modules = attention_modules(model)
    bypassing = sorted({type(module).__name__ for module in model.modules() if attention_facts(module).bypasses})
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if not modules:
        found = f"its {', '.join(bypassing)} compute softmax themselves" if bypassing else "it has no attention modules"
        raise ValueError(
            f"{kind!r} cannot compute TanhMax: {found}, without asking Transformers' attention interface, as about 100 architectures do; "
            "choose one that asks it, such as BERT, ViT or LLaMA"
        )
    if settings.layers is None and bypassing:
        raise ValueError(
            f"part of {kind!r} would stay softmax: {', '.join(bypassing)} do not ask Transformers' attention interface; "
            "name the layers that should compute TanhMax, to accept that, or pass the part to patch, such as use_tanhmax(model.bert)"
        )
    layers = list(_by_layer(model).values())
    if settings.layers is not None:
        if settings.layers[-1] >= len(layers):
            raise ValueError(f"there is no layer {settings.layers[-1]}: {kind!r} has {len(layers)} layers, counted from 0")
        modules = [module for index in settings.layers for module in layers[index]]
    for module in modules:
        for argument in attention_facts(module).refused:
            raise NotImplementedError(refused_argument(module, argument))
    if settings.heads is not None:
        fewest = min(heads_of(module) for module in modules)
        if settings.heads[-1] >= fewest:
            raise ValueError(f"there is no head {settings.heads[-1]}: the chosen layers have {fewest} heads, counted from 0")
    return modules


def _by_layer(model: nn.Module) -> dict[str, list[Any]]:
    """Attention modules grouped by layer: by their path up to its last number, so that self and cross attention are one layer."""
    layers: dict[str, list[Any]] = {}
    for name, module in model.named_modules():
        if attention_facts(module).asks:
            numbered = re.match(r"(.*\.\d+)(?:\.|$)", f".{name}")
            layers.setdefault(numbered.group(1) if numbered else name, []).append(module)
    return layers


# hf_tanhmax/models/adapters.py
"""Tables of other libraries that are keyed by model type: the TanhMax types get the rows of their upstream families.

PEFT keeps the default target modules of each of its methods so, and Liger the function that puts its kernels into a model; modules have the
same names, so what fits the upstream family fits. Neither has a function that adds a row, or a moment at which it calls plugins, and
importing them here would make `import hf_tanhmax` heavy. But both read the model type right before they look it up, so that is when the
tables are filled in: `ModelType` is an attribute that does it.
"""


# ViT's attention projections are named as LLaMA's are; the rest of it is not. PEFT's own rows for `vit` are the names of older checkpoints.
ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})


class ModelType:
    """The model type of a config class, which fills the tables in when it is read off the class or a config."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, config: Any, config_class: type | None = None) -> str:
        fill_tables()
        return self.name


def fill_tables() -> None:
    """Add the TanhMax model types to the tables of PEFT and Liger, if they are imported; a row that is there already stays."""
    for table in (*_peft_tables(), *_liger_tables()):
        for family in ("bert", "llama"):
            if family in table:
                table.setdefault(f"tanhmax_{family}", table[family])
    for table in _peft_tables():
        if ATTENTION.issuperset(table.get("llama", ["none"])):
            table.setdefault("tanhmax_vit", table["llama"])


def _peft_tables() -> Iterator[dict[str, list[str]]]:
    if "peft.utils.constants" in sys.modules:
        for name, table in vars(sys.modules["peft.utils.constants"]).items():
            if name.startswith("TRANSFORMERS_MODELS_TO_") and name.endswith("_MODULES_MAPPING"):
                yield table


def _liger_tables() -> Iterator[dict[str, Any]]:
    table = getattr(sys.modules.get("liger_kernel.transformers.monkey_patch"), "MODEL_TYPE_TO_APPLY_LIGER_FN", None)
    if table is not None:
        yield table


# hf_tanhmax/models/family.py
"""What the three families share: the TanhMax fields of a config, and the decorator that makes an upstream class a TanhMax class."""


# In a TanhMax model the names of Transformers mean TanhMax already. Ours are other words for them: taken as they are, they would make
# TanhMax of the layers that `tanhmax_layers` leaves softmax, and of a model that `to_softmax` made. In a published file FUSED and EAGER are
# names of its own.
STOCK_NAMES = {"tanhmax": "sdpa", "tanhmax_eager": "eager", FUSED: "sdpa", EAGER: "eager"}
IMPLEMENTATION: Any = PreTrainedConfig._attn_implementation  # a property

Model = TypeVar("Model", bound=type[PreTrainedModel])

# For each config class, the class behind every Auto class, as `tanhmax_class` was told.
HEADS: dict[type, dict[str, type[PreTrainedModel]]] = {}
# What a model card says of every model of ours, once it is pushed to the Hub.
TAGS = ["tanhmax", "custom_code"]


@dataclass(kw_only=True, repr=False)
class TanhMaxFields:
    """The fields that a TanhMax config adds to its upstream config; `TanhMaxSettings` says what they mean and checks them."""

    model_type: ClassVar[str]

    tanhmax_polarity: float | int | str = 1.0
    tanhmax_layers: list[int] | tuple[int, ...] | None = None
    tanhmax_heads: list[int] | tuple[int, ...] | None = None
    tanhmax_score_bias: float | int = 3.0

    def __init_subclass__(cls, *args: Any, **kwargs: Any) -> None:
        """Let libraries that look the model type up find it."""
        super().__init_subclass__(*args, **kwargs)
        if isinstance(cls.__dict__.get("model_type"), str):
            cls.model_type = ModelType(cls.model_type)  # type: ignore[assignment]

    @property
    def tanhmax_settings(self) -> TanhMaxSettings:
        """The four fields as one checked object."""
        return TanhMaxSettings(self.tanhmax_polarity, self.tanhmax_layers, self.tanhmax_heads, self.tanhmax_score_bias)  # type: ignore[arg-type]

    @property
    def _attn_implementation(self) -> str | None:
        name = IMPLEMENTATION.fget(self)
        return STOCK_NAMES.get(name, name)

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | dict[str, str] | None) -> None:
        IMPLEMENTATION.fset(self, value)

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write the config, and beside it the file of code that it names, by which it loads where this package is not installed.

        However a config or a model is saved, it comes by here, and that before anything is uploaded.
        """
        published = type(self) in HEADS
        if published:
            self.auto_map = auto_map(type(self))
        super().to_json_file(json_file_path, use_diff)  # type: ignore[misc]
        if published:
            (Path(json_file_path).parent / CODE_FILE).write_bytes(source().encode())

    def validate_tanhmax(self) -> None:
        """Refuse what `TanhMaxSettings` refuses; Transformers calls it when a config is made."""
        _ = self.tanhmax_settings


def auto_map(config_class: type) -> dict[str, str]:
    """The class in the published file for each Auto class, as config.json names it."""
    stem = Path(CODE_FILE).stem
    return {"AutoConfig": f"{stem}.{config_class.__name__}"} | {auto: f"{stem}.{cls.__name__}" for auto, cls in HEADS[config_class].items()}


def tanhmax_class(config_class: type, *auto_classes: str) -> Callable[[Model], Model]:
    """Make a subclass of a Transformers model compute TanhMax: its config class, its construction, its initialisation, its Auto classes.

    The decorated class is one line below its upstream class; the signature of `__init__` is upstream's, as Transformers inspects it.
    """

    def _decorate(cls: Model) -> Model:
        upstream: Any = cls.__init__

        @functools.wraps(upstream)
        def _construct(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
            upstream(self, config, *args, **kwargs)
            own(self)
            self.add_model_tags(TAGS)
            _share_out_score_biases(self)
            if config.model_type != type(config).model_type and config.name_or_path:  # a softmax checkpoint, which that name would load
                self.name_or_path = config.name_or_path = converted_name(config.name_or_path)

        upstream_initialize = cls.initialize_weights

        @functools.wraps(upstream_initialize)
        def _initialize(self: Any) -> None:
            upstream_initialize(self)
            for module in attention_modules(self):
                if getattr(module, SCORE_BIAS, None) is not None:
                    init.constant_(getattr(module, SCORE_BIAS), self.config.tanhmax_score_bias)

        changes = {"__init__": _construct, "initialize_weights": _initialize, "config_class": config_class}
        for name, value in changes.items():
            setattr(cls, name, value)
        cls.__annotations__ = {**cls.__annotations__, "config": config_class}
        cls._supports_flash_attn = cls._supports_flex_attn = False
        HEADS.setdefault(config_class, {}).update(dict.fromkeys(auto_classes, cls))
        return cls

    return _decorate


def _share_out_score_biases(model: PreTrainedModel) -> None:
    """Have the tensor parallel plan, where the family has one, give each rank the score biases of its heads."""
    rules = {re.sub(r"\.\d+\.", ".*.", name): "colwise" for name, _ in model.named_parameters() if name.endswith(SCORE_BIAS)}
    if model.tp_plan and rules:
        model.tp_plan = model.tp_plan | rules  # type: ignore[misc]


# hf_tanhmax/models/bert.py
"""BERT with TanhMax attention: model type `tanhmax_bert`, and a class for each of its heads."""


@strict
class TanhMaxBertConfig(TanhMaxFields, BertConfig):
    """A `BertConfig` with the four TanhMax settings; see `TanhMaxSettings` for what they mean."""

    model_type = "tanhmax_bert"


@tanhmax_class(TanhMaxBertConfig, "AutoModel", "AutoModelForTextEncoding")
class TanhMaxBertModel(BertModel):
    """The backbone."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForPreTraining")
class TanhMaxBertForPreTraining(BertForPreTraining):
    """Masked language modelling and next-sentence prediction."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForCausalLM")
class TanhMaxBertLMHeadModel(BertLMHeadModel):
    """Causal language modelling."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForMaskedLM")
class TanhMaxBertForMaskedLM(BertForMaskedLM):
    """Masked language modelling."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForNextSentencePrediction")
class TanhMaxBertForNextSentencePrediction(BertForNextSentencePrediction):
    """Next-sentence prediction."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForSequenceClassification")
class TanhMaxBertForSequenceClassification(BertForSequenceClassification):
    """Classification of sequences."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForMultipleChoice")
class TanhMaxBertForMultipleChoice(BertForMultipleChoice):
    """Multiple choice."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForTokenClassification")
class TanhMaxBertForTokenClassification(BertForTokenClassification):
    """Classification of tokens."""


@tanhmax_class(TanhMaxBertConfig, "AutoModelForQuestionAnswering")
class TanhMaxBertForQuestionAnswering(BertForQuestionAnswering):
    """Extractive question answering."""


# hf_tanhmax/models/vit.py
"""ViT with TanhMax attention: model type `tanhmax_vit`, and a class for each of its heads."""


@strict
class TanhMaxViTConfig(TanhMaxFields, ViTConfig):
    """A `ViTConfig` with the four TanhMax settings; see `TanhMaxSettings` for what they mean."""

    model_type = "tanhmax_vit"


@tanhmax_class(TanhMaxViTConfig, "AutoModel")
class TanhMaxViTModel(ViTModel):
    """The backbone."""


@tanhmax_class(TanhMaxViTConfig, "AutoModelForMaskedImageModeling")
class TanhMaxViTForMaskedImageModeling(ViTForMaskedImageModeling):
    """Masked image modelling."""


@tanhmax_class(TanhMaxViTConfig, "AutoModelForImageClassification")
class TanhMaxViTForImageClassification(ViTForImageClassification):
    """Classification of images."""


def register_checkpoint_conversion() -> None:
    """Let ViT checkpoints, whose file names differ from the module names, load into and save from `TanhMaxViTModel`.

    Transformers keys this table by class name and leaves custom classes out, so without it every weight would be new.
    """
    conversion = get_checkpoint_conversion_mapping("ViTModel")
    if conversion is not None:
        register_checkpoint_conversion_mapping("TanhMaxViTModel", conversion, overwrite=True)


# hf_tanhmax/models/llama.py
"""LLaMA with TanhMax attention: model type `tanhmax_llama`, and a class for each of its heads."""


@strict
class TanhMaxLlamaConfig(TanhMaxFields, LlamaConfig):
    """A `LlamaConfig` with the four TanhMax settings; see `TanhMaxSettings` for what they mean."""

    model_type = "tanhmax_llama"


@tanhmax_class(TanhMaxLlamaConfig, "AutoModel")
class TanhMaxLlamaModel(LlamaModel):
    """The backbone."""


@tanhmax_class(TanhMaxLlamaConfig, "AutoModelForCausalLM")
class TanhMaxLlamaForCausalLM(LlamaForCausalLM):
    """Causal language modelling."""


@tanhmax_class(TanhMaxLlamaConfig, "AutoModelForSequenceClassification")
class TanhMaxLlamaForSequenceClassification(LlamaForSequenceClassification):
    """Classification of sequences."""


@tanhmax_class(TanhMaxLlamaConfig, "AutoModelForQuestionAnswering")
class TanhMaxLlamaForQuestionAnswering(LlamaForQuestionAnswering):
    """Extractive question answering."""


@tanhmax_class(TanhMaxLlamaConfig, "AutoModelForTokenClassification")
class TanhMaxLlamaForTokenClassification(LlamaForTokenClassification):
    """Classification of tokens."""


# hf_tanhmax/models/auto.py
"""Registration with the Auto classes: model types, heads, tokenizer and image processor."""


# For each family: its config, and the Auto class of every head.
FAMILIES: dict[type, dict[str, type[PreTrainedModel]]] = {
    config: HEADS[config] for config in (TanhMaxBertConfig, TanhMaxViTConfig, TanhMaxLlamaConfig)
}


def register_models() -> None:
    """Register the three families; calling it again changes nothing."""
    for config in FAMILIES:
        AutoConfig.register(config.model_type, config, exist_ok=True)  # type: ignore[attr-defined]
    register_heads()


def register_heads() -> None:
    """Register what Transformers finds by the class of a config, and not by the name of its model type."""
    register_checkpoint_conversion()
    for config, heads in FAMILIES.items():
        for auto, cls in heads.items():
            getattr(transformers, auto).register(config, cls, exist_ok=True)
    AutoTokenizer.register(TanhMaxBertConfig, BertTokenizer, exist_ok=True)
    _register_image_processors()


def _register_image_processors() -> None:
    try:
        register = AutoImageProcessor.register
    except ImportError:  # some releases of Transformers have image processors only beside torchvision; nothing loads one there
        return
    processors: dict[str, Any] = {"pil": transformers.ViTImageProcessorPil}
    if importlib.util.find_spec("torchvision") is not None:
        processors["torchvision"] = transformers.ViTImageProcessor
    register(TanhMaxViTConfig, image_processor_classes=processors, exist_ok=True)


register_attention()
register_heads()
