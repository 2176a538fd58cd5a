"""Random calls, every implementation against float64: sizes, strides, masks, windows, groups, dtypes, polarities, extreme scores.

A failing call shrinks to a small one, and prints itself as the arguments that make it again. HF_TANHMAX_FUZZ=10 draws ten times as many.
"""

import math
import os
from dataclasses import dataclass, replace
from importlib import import_module

import pytest
import torch
from cases import EAGER, doubled_softmax, oracle, with_gradients, worst_rounding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thorough import thorough_only

from hf_tanhmax import tanhmax_attention, why_not

GPU = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {
    "triton": ("float32", "bfloat16", "float16"),
    "cpu": ("float64", "float32", "bfloat16", "float16"),
    "composed": ("float64", "float32"),
}
DTYPES["portable"] = ("float64", "float32", "bfloat16")
EXAMPLES = {"triton": 4, "hopper": 8, "decode": 8, "cpu": 100, "composed": 60, "portable": 60}
STOCK = ("composed", "portable")  # out of softmax attention
# Errors in units of the dtype's: those of eager runs in several orders of summation, at least one rounding, times this.
SLACK, ORDERS = 2.5, 3


def examples(implementation):
    """How many calls are drawn, and that they are the same in every run."""
    count = EXAMPLES[implementation] * int(os.environ.get("HF_TANHMAX_FUZZ", "1"))
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Drawn:
    """One call, as plain numbers and names, so that hypothesis can shrink it and print it."""

    seed: int = 0
    batch: int = 1
    kv_heads: int = 1
    groups: int = 1
    queries: int = 1
    keys: int = 1
    head_dim: int = 1
    value_dim: int = 1
    layout: str = "bhsd"
    scale: float = 1.0
    causal: str | bool = False
    window: int | None = None
    softcap: float | None = None
    polarity: float | str = 1.0
    keep: str | None = None
    bias: tuple[bool, bool, bool, bool] | None = None
    additive: tuple[bool, bool, bool, bool] | None = None
    packed: tuple[int, ...] | None = None
    shift: str | None = None

    def tensor(self, generator, heads, length, width):
        shape = (self.batch, length, heads, width) if self.layout == "bshd" else (self.batch, heads, length, width)
        found = torch.randn(shape, generator=generator, dtype=torch.float64)
        if self.layout == "sliced":
            found = torch.stack([found, found], -2)[..., 0, :]  # rows that are not next to each other
        return found.transpose(1, 2) if self.layout == "bshd" else found

    def call(self):
        """Query, key, value and keyword arguments, in float64 on the CPU."""
        generator = torch.Generator().manual_seed(self.seed)
        heads, keys = self.kv_heads * self.groups, self.queries if self.packed else self.keys
        tensors = [
            self.tensor(generator, many, length, width)
            for many, length, width in (
                (heads, self.queries, self.head_dim),
                (self.kv_heads, keys, self.head_dim),
                (self.kv_heads, keys, self.value_dim),
            )
        ]
        shape = (self.batch, heads, self.queries, keys)
        arguments = {"is_causal": self.causal, "window": self.window, "softcap": self.softcap, "scale": self.scale, "shift": self.shift}
        arguments["polarity"] = torch.rand(heads, generator=generator, dtype=torch.float64) if self.polarity == "heads" else self.polarity
        if self.keep == "dense":
            arguments["keep"] = torch.rand(shape, generator=generator) > 0.4
        elif self.keep == "keys":
            arguments["keep"] = torch.rand(self.batch, 1, 1, keys, generator=generator) > 0.4
        elif self.keep is not None:
            lengths = torch.randint(0, keys + 1, (self.batch, 1, 1, 1), generator=generator)
            positions = torch.arange(keys)
            arguments["keep"] = positions < lengths if self.keep == "right" else positions >= keys - lengths
        if self.bias is not None:
            size = [1 if shared else full for shared, full in zip(self.bias, shape, strict=True)]
            arguments["bias"] = torch.randn(size, generator=generator, dtype=torch.float64)
        if self.additive is not None:
            size = [1 if shared else full for shared, full in zip(self.additive, shape, strict=True)]
            values = torch.tensor([0.0, -30.0, -100.0, -9984.0, -math.inf], dtype=torch.float64)
            arguments["additive_mask"] = values[torch.randint(5, size, generator=generator)] + torch.randn(size, generator=generator)
        if self.packed:
            cuts = sorted({min(cut, self.queries) for cut in self.packed})
            arguments["cu_seqlens"] = torch.tensor([0, *cuts, self.queries], dtype=torch.int32)
        return tensors, arguments


@st.composite
def calls(draw):
    """A call that `tanhmax_attention` accepts."""
    packed = draw(st.none() | st.lists(st.integers(0, 40), min_size=1, max_size=3).map(tuple))
    return Drawn(
        seed=draw(st.integers(0, 99)),
        batch=1 if packed else draw(st.integers(1, 2)),
        kv_heads=draw(st.integers(1, 2)),
        groups=draw(st.integers(1, 2)),
        queries=draw(st.sampled_from((1, 2, 7, 16, 17, 33))),
        keys=draw(st.sampled_from((1, 3, 11, 16, 31, 49))),
        head_dim=draw(st.sampled_from((1, 5, 8, 16, 17, 40))),
        value_dim=draw(st.sampled_from((1, 5, 8, 16, 17))),
        layout=draw(st.sampled_from(("bhsd", "bshd", "sliced"))),
        scale=draw(st.sampled_from((1e-3, 0.1, 0.5, 3.0, -0.5))),
        causal=draw(st.sampled_from((False, True, "upper_left", "lower_right"))),
        window=draw(st.none() | st.integers(1, 40)),
        softcap=draw(st.none() | st.sampled_from((0.5, 5.0, 50.0))),
        polarity=draw(st.sampled_from((1.0, 0.0, 0.3, 1e-6, "heads"))),
        keep=draw(st.sampled_from((None, "dense", "keys", "right", "left"))),
        bias=draw(st.none() | st.tuples(*[st.booleans()] * 4)),
        additive=draw(st.none() | st.tuples(*[st.booleans()] * 4)),
        packed=packed,
        shift=draw(st.sampled_from((None, "balanced"))),
    )


def placed(call, dtype, device="cpu"):
    """Leaves that want gradients, the first three query, key and value, and the arguments with them."""
    tensors, arguments = call
    leaves = [tensor.to(device, dtype).requires_grad_() for tensor in tensors]
    found = {}
    for name, item in arguments.items():
        found[name] = item.to(device) if isinstance(item, torch.Tensor) else item
        if isinstance(item, torch.Tensor) and item.is_floating_point():
            found[name] = item.to(device, dtype).requires_grad_()
            leaves.append(found[name])
    return leaves, found


def rounded(call, dtype):
    """The call with its inputs rounded to a dtype, in float64 again: what the exact result is computed from."""
    tensors, arguments = call
    return [tensor.to(dtype).double() for tensor in tensors], {
        name: item.to(dtype).double() if isinstance(item, torch.Tensor) and item.is_floating_point() else item
        for name, item in arguments.items()
    }


def exactly(call, **changes):
    """Output and gradients by the oracle."""
    leaves, arguments = placed(call, torch.float64)
    return with_gradients(oracle(leaves, {**arguments, **changes})[0], leaves)


def rounding_of_sums(drawn, query, key, dtype):
    """The relative error that rounding a joint log-sum-exp leaves in the weights of its row: backward passes of stock kernels recompute
    weights from it, and it is as large as the largest score."""
    scores = query.unflatten(1, (drawn.kv_heads, drawn.groups)) @ key.unsqueeze(2).transpose(-1, -2) * drawn.scale
    return 0.5 * torch.finfo(dtype).eps * scores.abs().max().item()


def check(drawn, implementation, dtype):
    if implementation == "triton":  # it takes one of bias and additive mask
        drawn = replace(drawn, bias=drawn.bias if drawn.additive is None else None)
    call = rounded(drawn.call(), dtype)
    if implementation != "triton" and why_not(*call[0], **call[1], implementation=implementation):
        return
    leaves, arguments = placed(call, dtype, GPU if implementation == "triton" else "cpu")
    found = with_gradients(tanhmax_attention(*leaves[:3], implementation=implementation, **arguments), leaves)
    exact, softmax = exactly(call), exactly(call, polarity=0.0)
    # What is composed of softmax attention has the errors of such compositions, whose halves cancel where scores are small.
    eager = worst_rounding(*placed(call, dtype), exact, EAGER if implementation in STOCK else (doubled_softmax,), ORDERS)
    eps = torch.finfo(dtype).eps * (2 if dtype is torch.float64 else 1)  # to which the reference is rounded as well
    if drawn.additive is not None and implementation != "cpu":  # the sum of score and mask is rounded, as in softmax attention
        eps = max(eps, 100.0 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps)
    # With a balanced shift everything is a difference of two softmaxes; of one key alone it is exactly 0.
    largest = max(tensor.norm() for tensor in (exact if drawn.shift is None else [*exact, *softmax]))
    names = ("output", "query", "key", "value", "argument", "argument", "argument")
    for name, one, rough, true, positive in zip(names, found, eager, exact, softmax, strict=False):
        assert one.isfinite().all(), name
        # Small weights are differences of two shares of softmax's size, and small gradients of two terms: that is what rounds.
        size = true.norm() + positive.norm() + largest * (abs(drawn.scale) * drawn.head_dim if name in ("query", "key") else 1.0)
        errors = [(deviation.norm() / size.clamp(min=1e-30)).item() for deviation in (one.cpu().double() - true, rough)]
        allowed = SLACK * max(errors[1] if math.isfinite(errors[1]) else 0.0, eps)
        if implementation == "composed":
            allowed = max(allowed, rounding_of_sums(drawn, *call[0][:2], dtype))
        assert errors[0] <= allowed, f"{name}: relative error {errors[0]:.1e}, eager's is {errors[1]:.1e}"


@pytest.mark.slow_in_interpreter
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("implementation", "dtype"), [(name, dtype) for name, dtypes in DTYPES.items() for dtype in dtypes])
def test_random_calls(implementation, dtype):
    if implementation == "triton":
        pytest.importorskip("triton", reason="needs triton")
        if dtype != "float32":
            thorough_only("rounding is compared case by case elsewhere")

    @examples(implementation)
    @given(calls())
    def run(drawn):
        check(drawn, implementation, getattr(torch, dtype))

    run()


# Descriptors want sizes and strides that few random calls have, so the rows without them follow.
HOPPER = {
    "fixed shift": [{"static": True}],
    "all": [{"static": True, "polynomial": True, "described": True}, {"static": True, "polynomial": True}],
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dtype"), [("all", "bfloat16"), ("fixed shift", "bfloat16"), ("fixed shift", "float32")])
def test_random_calls_by_the_rows_of_a_hopper(kind, dtype, monkeypatch):
    """Half-precision gradients come from one kernel; calls that a row is not for take the plain one, as they do outside of tests."""
    launch = pytest.importorskip("hf_tanhmax.attention.kernels.launch", reason="needs triton")
    tile = import_module("hf_tanhmax.attention.kernels.schedule").Tile(16, 16, 4, 1)
    if GPU == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs compute capability 9.0, or the interpreter")
    if kind != "all":
        thorough_only("the same rows are run case by case elsewhere, and all at once here")
    rows = {"forward": (*(replace(tile, **row) for row in HOPPER[kind]), tile), "key_value": (tile, replace(tile, reduced=True))}
    monkeypatch.setattr(launch, "tiles", lambda kernel, *_: rows.get(kernel, (tile,)))
    monkeypatch.setenv("HF_TANHMAX_ATOMIC", "1")

    @examples("hopper")
    @given(calls().map(lambda drawn: replace(drawn, polarity=1.0, bias=None, additive=None, shift=None)))
    def run(drawn):
        check(drawn, "triton", getattr(torch, dtype))

    run()


def check_decoding(drawn, dtype):
    call = rounded(drawn.call(), dtype)
    placed_call, arguments = placed(call, dtype, GPU)
    tensors = [tensor.detach() for tensor in placed_call[:3]]
    arguments = {name: item.detach() if isinstance(item, torch.Tensor) else item for name, item in arguments.items()}
    if why_not(*tensors, **arguments, implementation="decode"):
        return
    found = tanhmax_attention(*tensors, **arguments, implementation="decode").cpu().double()
    exact, softmax = oracle(*call)[0], oracle(call[0], {**call[1], "polarity": 0.0})[0]
    (eager,) = worst_rounding(*lowered(call, dtype), [exact], orders=ORDERS)
    size = (exact.norm() + softmax.norm()).clamp(min=1e-30)
    errors = [(deviation.norm() / size).item() for deviation in (found - exact, eager)]
    assert found.isfinite().all()
    assert errors[0] <= SLACK * max(errors[1] if math.isfinite(errors[1]) else 0.0, torch.finfo(dtype).eps)


def lowered(call, dtype):
    """The call in `dtype`, on the CPU."""
    leaves, arguments = placed(call, dtype)
    return [tensor.detach() for tensor in leaves[:3]], {
        name: item.detach() if isinstance(item, torch.Tensor) else item for name, item in arguments.items()
    }


@pytest.mark.slow
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", DTYPES["triton"])
@pytest.mark.parametrize("count", [1, 3])
def test_random_decoding(dtype, count, monkeypatch):
    """Any number of chunks, however few the keys."""
    launch_decode = pytest.importorskip("hf_tanhmax.attention.kernels.launch_decode", reason="needs triton")
    if (dtype, count) != ("float32", 3):
        thorough_only("float32 in several chunks is run")
    monkeypatch.setattr(launch_decode, "splits", lambda *_: count)
    monkeypatch.setattr(launch_decode, "SHORTEST", 1)

    @examples("decode")
    @given(calls())
    def run(drawn):
        check_decoding(drawn, getattr(torch, dtype))

    run()
