"""One attention call: the checked arguments of `tanhmax_attention`, and the flat list of inputs that the torch operators take."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypedDict

import torch
import torch.autograd.forward_ad as fwd_ad
from torch import Tensor

from ..functional import Shift, check_added, check_keep, check_polarity, check_shift, log_polarity, nan_below_zero
from .mask import AttentionMask, packed_segments
from .paged_cache import Paging, checked_paging

Causal = bool | Literal["upper_left", "lower_right"]
ENDLESS = 2**31  # a window of as many keys hides none of any length, and its sum with a position may be no integer of 64 bits
Flat = Tensor | bool | int | float | None  # what an operator's schema may hold


class AutogradContext(Protocol):
    """The context object of torch's autograd; the attribute `constants` is added here."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    constants: tuple[Any, ...]

    def save_for_backward(self, *tensors: Flat) -> None:
        """Keep tensors, some of which may be None."""

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Say which results have no gradient."""


class OperatorInputs(NamedTuple):
    """A call as torch's operators take it: their schemas are flat, and are written from these fields.

    Shapes are those of `tanhmax_attention`, with bias, additive mask and `keep` of 4 dimensions. `polarity` is `[heads]`: the logarithm
    of the polarity, or if `balanced` the polarity itself, which may be 0 and have a gradient there. None is polarity 1 if `signed`, else
    polarity 0 (softmax, which takes half the exponentials). `segments`, `causal`, `offset` and `window` are those of `mask`. `seed` is an
    int64 scalar on the device. `kernels` says who computes: the Triton kernels, on CPU tensors in Triton's interpreter, or the code for
    CPUs.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    polarity: Tensor | None
    bias: Tensor | None
    additive_mask: Tensor | None
    keep: Tensor | None
    segments: Tensor | None
    seed: Tensor | None
    causal: bool
    offset: int
    window: int | None
    scale: float
    softcap: float | None
    dropout_p: float
    signed: bool
    balanced: bool
    kernels: bool

    @property
    def differentiable(self) -> tuple[Tensor | None, ...]:
        """Query, key, value, polarity, bias and additive mask."""
        return self[:6]

    @property
    def coefficient(self) -> float | Tensor:
        """The polarity as a number or `[heads]`, never its logarithm."""
        if self.polarity is None:
            return float(self.signed)
        return self.polarity if self.balanced else torch.exp(self.polarity)

    @property
    def mask(self) -> AttentionMask:
        """Which keys each query sees."""
        return AttentionMask(self.query.shape[2], self.key.shape[2], self.causal, self.offset, self.window, self.keep, self.segments)


class JointRows(NamedTuple):
    """L and D of each row over more keys than those of the call, `[batch, heads, queries]` in the dtype that is computed in."""

    lse: Tensor
    delta: Tensor


class DecodeWishes(TypedDict):
    """What a call asks for that the decoding kernel may lack: the keyword arguments of `decodable`."""

    needs_gradient: bool
    dropout_p: float
    packed: bool


@dataclass
class Call:
    """The arguments of `tanhmax_attention`, in its order and checked, as implementations take them.

    Tensors of several dtypes are autocast's, where it is on; bias and additive mask have 4 dimensions; a polarity is a number or `[heads]`.

    Attributes:
        mask: which keys each query sees, by `keep`, `is_causal`, `window` and `cu_seqlens`.
        paging: where the keys lie; None without a `block_table`.

    Raises:
        ValueError, TypeError: an argument that does not fit; the sentence names it.
    """

    query: Tensor
    key: Tensor
    value: Tensor
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
    shift: Shift = None
    mask: AttentionMask = field(init=False)
    paging: Paging | None = field(init=False)

    def __post_init__(self) -> None:
        if self.query.dtype != self.value.dtype or self.key.dtype != self.value.dtype:
            self.query, self.key, self.value = _cast_alike(self.query, self.key, self.value)
        _check_tensors(self.query, self.key, self.value, paged=self.block_table is not None)
        self.paging = None if self.block_table is None else self._checked_paging(self.block_table)
        if self.keep is not None:
            check_keep(self.keep, self._scores, "[batch, heads, queries, keys]")
            _check_device("keep", self.keep, self.query)
        self.bias = None if self.bias is None else self._added("bias", self.bias)
        self.additive_mask = None if self.additive_mask is None else self._added("additive_mask", self.additive_mask)
        _check_numbers(self.scale, self.window, self.softcap, self.dropout_p)
        self.mask = self._checked_mask()
        self.polarity = _checked_polarity(self.polarity, self.query)
        check_shift(self.shift)

    @property
    def factor(self) -> float:
        """The factor of the products of query and key."""
        return self.query.shape[-1] ** -0.5 if self.scale is None else self.scale

    @property
    def polarities(self) -> Tensor:
        """The polarity as `[heads]`, in float32 or float64, NaN where it is below 0."""
        if isinstance(self.polarity, Tensor):
            return nan_below_zero(self.polarity)
        exact = torch.promote_types(self.query.dtype, torch.float32)
        return torch.full((self.query.shape[1],), self.polarity, dtype=exact, device=self.query.device)

    @property
    def differentiable(self) -> tuple[Tensor, ...]:
        """The tensors that may have a gradient."""
        tensors = (self.query, self.key, self.value, self.bias, self.additive_mask, self.polarity)
        return tuple(tensor for tensor in tensors if isinstance(tensor, Tensor))

    @property
    def has_tangents(self) -> bool:
        """Whether forward-mode derivatives are wanted of the call."""
        return forward_mode() and any(fwd_ad.unpack_dual(tensor).tangent is not None for tensor in self.differentiable)

    @property
    def decode_wishes(self) -> DecodeWishes:
        """What is wanted besides the output."""
        wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in self.differentiable)
        return {"needs_gradient": wanted, "dropout_p": self.dropout_p, "packed": self.mask.segments is not None}

    def operator_inputs(self, *, kernels: bool, seed: Tensor | None = None) -> OperatorInputs:
        """The call for an operator."""
        mask, constant = self.mask, not isinstance(self.polarity, Tensor) and self.polarity in (0.0, 1.0)
        softmax = constant and self.polarity == 0.0
        balanced = self.shift is not None and not softmax  # to which a shift is nothing
        polarities = None if constant else self.polarities if balanced else self._log_polarities()
        return OperatorInputs(
            self.query,
            self.key,
            self.value,
            polarities,
            self.bias,
            self.additive_mask,
            mask.keep,
            mask.segments,
            seed,
            mask.causal,
            mask.offset,
            mask.window,
            _number("scale", self.factor),
            None if self.softcap is None else _number("softcap", self.softcap),
            self.dropout_p,
            not softmax,
            balanced,
            kernels,
        )

    def _log_polarities(self) -> Tensor:
        """The logarithm of the polarity, as `[heads]`."""
        given = self.polarity
        if not isinstance(given, Tensor) or (given.requires_grad and torch.is_grad_enabled()):
            return log_polarity(self.polarities)
        if torch.compiler.is_compiling() or transforms() or forward_mode():
            return log_polarity(self.polarities)
        return torch.log(given)  # the same numbers in one step: the others are for the derivative at 0

    @property
    def _scores(self) -> tuple[int, ...]:
        """The shape of the scores."""
        return (*self.query.shape[:3], self.key.shape[2])

    def _added(self, name: str, added: Tensor) -> Tensor:
        """What is added to the scores, with 4 dimensions."""
        check_added(name, added, self._scores, "[batch, heads, queries, keys]")
        _check_device(name, added, self.query)
        return added if added.dim() == 4 else added[(None,) * (4 - added.dim())]

    def _checked_mask(self) -> AttentionMask:
        keep, packed = self.keep, self.cu_seqlens if self.block_table is None else None
        if self.is_causal not in (False, True, "upper_left", "lower_right"):
            raise ValueError(f'is_causal must be a bool, "upper_left" or "lower_right", but is {self.is_causal!r}')
        queries, keys = self.query.shape[2], self.key.shape[2]
        return AttentionMask(
            queries=queries,
            keys=keys,
            causal=bool(self.is_causal),
            offset=keys - queries if self.is_causal == "lower_right" else 0,
            window=None if self.window is None or self.window >= ENDLESS else self.window,
            keep=keep if keep is None or keep.dim() == 4 else keep[(None,) * (4 - keep.dim())],
            segments=None if packed is None else packed_segments(packed, self.query, self.key),
        )

    def _checked_paging(self, block_table: Tensor) -> Paging:
        for name, given in (("keep", self.keep), ("bias", self.bias), ("additive_mask", self.additive_mask)):
            if given is not None:
                raise ValueError(f"with a block_table there is no {name}: cu_seqlens says how many keys each entry has")
        if self.is_causal not in (False, "lower_right") or (self.window is not None and not self.is_causal):
            raise ValueError(
                'with a block_table is_causal must be "lower_right", or False without a window, as the last query is at the last key; '
                f"but is_causal is {self.is_causal!r} and window {self.window}"
            )
        return checked_paging(block_table, self.cu_seqlens, self.query, self.key)


def forward_mode() -> bool:
    """Whether a level of forward-mode derivatives is open, for which torch has no public word."""
    return fwd_ad._current_level >= 0


NONE = frozenset[str]()


def transforms() -> frozenset[str]:
    """Which transforms of `torch.func` are at work, as Grad, Jvp and Vmap, for which torch has no public word."""
    if torch.compiler.is_compiling() or not (layers := torch._C._functorch.get_interpreter_stack()):
        return NONE
    return frozenset(layer.key().name for layer in layers)


def autocasts(device_type: str) -> bool:
    """Whether autocast is on for a type of device. The two that are named always have it: torch 2.11 cannot compile the question."""
    available = device_type in ("cpu", "cuda") or torch.amp.is_autocast_available(device_type)
    return available and torch.is_autocast_enabled(device_type)


def _check_tensors(query: Tensor, key: Tensor, value: Tensor, *, paged: bool) -> None:
    dtype = query.dtype
    alike = dtype.is_floating_point and key.dtype == dtype and value.dtype == dtype and key.device == query.device == value.device
    if not alike or query.dim() != 4 or key.dim() != 4 or value.dim() != 4:
        _refuse_unlike(query=query, key=key, value=value)
    batch, heads, _, dim = query.shape
    key_batch, kv_heads, keys, key_dim = key.shape
    value_batch, value_heads, values, value_dim = value.shape
    if (batch != key_batch and not paged) or key_batch != value_batch or kv_heads != value_heads or keys != values:
        raise ValueError(
            "query, key and value must agree in batch, and key and value in heads and length, but have shapes "
            f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        )
    if dim != key_dim:
        raise ValueError(f"query and key must have one head size, but have {dim} and {key_dim}")
    if dim == 0 or value_dim == 0:
        raise ValueError(f"query, key and value must have at least one feature, but have {dim}, {key_dim} and {value_dim}")
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"the {kv_heads} key heads must divide the {heads} query heads")


def _refuse_unlike(**tensors: Tensor) -> None:
    """Say which of query, key and value has the wrong number of dimensions, dtype or device."""
    query = tensors["query"]
    for name, tensor in tensors.items():
        if tensor.dim() != 4:
            raise ValueError(f"{name} must be [batch, heads, length, head_dim], but has shape {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, but is {tensor.dtype}")
        if tensor.dtype != query.dtype:
            raise TypeError(f"query, key and value must have one dtype, but {name} is {tensor.dtype} and query is {query.dtype}")
        _check_device(name, tensor, query)


def _cast_alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of several dtypes in autocast's, if it is on and would cast them for torch's own attention; else as they are."""
    kind = tensors[0].device.type
    if not autocasts(kind) or any(tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16) for tensor in tensors):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)


def _check_device(name: str, tensor: Tensor, query: Tensor) -> None:
    if tensor.device != query.device:
        raise ValueError(f"{name} is on {tensor.device}, but query is on {query.device}; move one of them")


def _check_numbers(scale: float | None, window: int | None, softcap: float | None, dropout_p: float) -> None:
    if scale is not None and not -math.inf < scale < math.inf:
        raise ValueError(f"scale must be finite, but is {scale}")
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, as a query sees its own key, but is {window}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap must be positive, but is {softcap}")
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p must be in [0, 1), but is {dropout_p}")


def _number(name: str, given: float | Tensor) -> float:
    """A number that came as one, or as a tensor without a gradient, whose value may be another in the next call."""
    if not isinstance(given, Tensor):
        return given
    if given.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(f'{name} is a tensor with a gradient, which no operator finds; implementation="reference" does')
    return float(given)


def _checked_polarity(polarity: float | Tensor, query: Tensor) -> float | Tensor:
    checked = check_polarity(polarity)
    if not isinstance(checked, Tensor):
        return checked
    heads, exact = query.shape[1], torch.promote_types(query.dtype, torch.float32)
    if checked.dim() > 1 or checked.numel() not in (1, heads):
        raise ValueError(f"a polarity tensor must be a scalar or [heads] = [{heads}], but has shape {tuple(checked.shape)}")
    _check_device("polarity", checked, query)
    checked = checked if checked.dtype == exact else checked.to(exact)
    return checked if checked.shape == (heads,) else checked.expand(heads)
