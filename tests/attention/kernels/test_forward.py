"""The forward kernel where the table of cases does not reach: log-sum-exp, hidden blocks, extremes, far strides, spans of masks."""

import pytest
import torch
from cases import allowed, doubled_softmax, error, rounding_error, widened

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.ops import fused_attention

forward = pytest.importorskip("hf_tanhmax.attention.kernels.forward", reason="needs triton")
MASK_TILE = pytest.importorskip("hf_tanhmax.attention.kernels.masks", reason="needs triton").MASK_TILE

GPU = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = pytest.mark.usefixtures("small_tiles")


def fused(query, key, value, **arguments):
    return tanhmax_attention(query, key, value, implementation="triton", **arguments)


def exact(query, key, value, **arguments):
    """The reference in float64, on the CPU."""
    placed = {name: item.cpu() if isinstance(item, torch.Tensor) else item for name, item in arguments.items()}
    return tanhmax_attention(*(tensor.double().cpu() for tensor in (query, key, value)), implementation="reference", **placed)


@pytest.mark.parametrize("head_dim", [1, 8, 16, 24, 64, 80, 96, 128, 250, 256])
@pytest.mark.parametrize("value_dim", [None, 40])
def test_head_sizes(head_dim, value_dim):
    query, key = torch.randn(1, 2, 19, head_dim, device=GPU), torch.randn(1, 1, 37, head_dim, device=GPU)
    value = torch.randn(1, 1, 37, value_dim or head_dim, device=GPU)
    tensors = [tensor.requires_grad_() for tensor in (query, key, value)]
    output = fused(*tensors, is_causal="lower_right")
    assert error(output.cpu(), exact(*tensors, is_causal="lower_right")) < 1e-6
    twins = [tensor.detach().double().cpu().requires_grad_() for tensor in tensors]
    expected = torch.autograd.grad(exact(*twins, is_causal="lower_right").square().sum(), twins)
    for found, wanted in zip(torch.autograd.grad(output.square().sum(), tensors), expected, strict=True):
        assert error(found.cpu(), wanted) < 2e-6


@pytest.mark.parametrize(("log_polarity", "signed"), [(None, True), (None, False), (0.0, True), (-2.0, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_sum_exp(dtype, log_polarity, signed):
    query, key, value = (torch.randn(2, 3, length, 8, device=GPU).to(dtype) for length in (5, 41, 41))
    log_p = None if log_polarity is None else torch.full((3,), log_polarity, device=GPU)
    _, lse, _ = fused_attention(query, key, value, log_p, None, None, None, None, None, False, 0, None, 0.7, None, 0.0, signed, False, True)
    scores = query.double() @ key.double().transpose(-1, -2) * 0.7
    shift = log_polarity if log_polarity is not None else 0.0 if signed else float("-inf")
    torch.testing.assert_close(lse.double(), torch.cat([scores, shift - scores], -1).logsumexp(-1), rtol=1e-6, atol=1e-6)


HIDDEN = {
    "causal": ({"is_causal": True}, lambda i, j: j <= i),
    "window": ({"window": 5, "is_causal": True}, lambda i, j: (j <= i) & (j > i - 5)),
    "two-sided window": ({"window": 5}, lambda i, j: (j - i).abs() < 5),
    "right padding": ({"keep": (torch.arange(225) < 30).view(1, 1, 1, -1)}, lambda i, j: (j < 30) & (i >= 0)),
    "left padding": ({"keep": (torch.arange(225) >= 200).view(1, 1, 1, -1)}, lambda i, j: (j >= 200) & (i >= 0)),
    "packed": ({"cu_seqlens": torch.tensor([0, 33, 33, 97])}, lambda i, j: (i < 33) == (j < 33)),
}


@pytest.mark.skipif(GPU != "cpu", reason="knows the size of the interpreter's tiles")
@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_blocks_are_not_touched(name):
    """Keys of a block that is hidden from a block of rows are NaN, which any product with them would show.

    Blocks are the interpreter's tiles; those of a mask are the tiles of its map.
    """
    arguments, visible = HIDDEN[name]
    length, block = (225, MASK_TILE.value) if "keep" in arguments else (97, 16)
    query, key, value = torch.randn(3, 1, 1, length, 8).unbind()
    clean = fused(query, key, value, **arguments)
    seen = visible(torch.arange(length)[:, None], torch.arange(length)[None])
    count = 0
    for start in range(0, length, block):
        rows = slice(start, start + block)
        blocks = [slice(column, column + block) for column in range(0, length, block)]
        hidden = [columns for columns in blocks if not seen[rows, columns].any()]
        count += len(hidden)
        poisoned_key, poisoned_value = key.clone(), value.clone()
        for columns in hidden:
            poisoned_key[:, :, columns], poisoned_value[:, :, columns] = float("nan"), float("nan")
        found = fused(query, poisoned_key, poisoned_value, **arguments)
        assert torch.equal(found[:, :, rows], clean[:, :, rows])
    assert count > 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_infinite_scores_saturate(dtype):
    query = torch.tensor([1.0, 0.0], device=GPU).expand(1, 1, 3, 2).to(dtype)
    key = torch.tensor([[3e4, 0.0], [-3e4, 0.0], [3e4, 0.0], [1.0, 0.0]], device=GPU).view(1, 1, 4, 2).to(dtype)
    value = torch.eye(4, device=GPU).view(1, 1, 4, 4).to(dtype)
    share = torch.tensor([1 / 3, -1 / 3, 1 / 3, 0.0], device=GPU).to(dtype)
    torch.testing.assert_close(fused(query, key, value, scale=1e36)[0, 0], share.expand(3, 4))
    positive = torch.tensor([0.5, 0.0, 0.5, 0.0], device=GPU).to(dtype)
    torch.testing.assert_close(fused(query, key, value, scale=1e36, polarity=0.0)[0, 0], positive.expand(3, 4))
    torch.testing.assert_close(fused(query, key[:, :, 1:2], value[:, :, 1:2], scale=1e36, polarity=0.5)[0, 0, 0], -value[0, 0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("std", [1e-3, 0.1, 10.0, 40.0])
@pytest.mark.parametrize("polarity", [1.0, 0.0, 0.25])
def test_extreme_scores(std, polarity):
    query, key, value = (torch.randn(1, 4, 65, 16, device=GPU) for _ in range(3))
    query = query * std
    output = fused(query, key, value, polarity=polarity)
    tensors, arguments = [tensor.cpu() for tensor in (query, key, value)], {"polarity": polarity}
    true = doubled_softmax(*widened(tensors, arguments))
    (rounding,) = rounding_error(tensors, arguments, [true], orders=8)
    assert error(output.cpu(), true) <= allowed(rounding, torch.float32)


@pytest.mark.slow
def test_far_strides_are_64_bit():
    """Batch entries lie more than 2**31 elements apart, in storage of which almost nothing is ever touched."""
    far = 2**31 + 16
    storage = torch.zeros(far + 3 * 17 * 8, dtype=torch.float16, device=GPU)
    query, key, value = (storage.as_strided((2, 1, 17, 8), (far, 0, 8, 1), offset * 17 * 8) for offset in range(3))
    for tensor in (query, key, value):
        tensor.copy_(torch.randn(2, 1, 17, 8))
    near = [tensor.contiguous() for tensor in (query, key, value)]
    assert torch.equal(fused(query, key, value, is_causal=True), fused(*near, is_causal=True))
