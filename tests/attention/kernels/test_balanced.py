"""Balanced weights in the kernels: every argument against the oracle, leaks, invariance, edges, the two sums of each row, derivatives."""

import pytest
import torch
from cases import BALANCED, allowed, error, measured, with_gradients
from thorough import thorough_only

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.call import OperatorInputs
from hf_tanhmax.attention.mask import AttentionMask
from hf_tanhmax.attention.ops import decode_attention, fused_attention, fused_attention_backward

launch_decode = pytest.importorskip("hf_tanhmax.attention.kernels.launch_decode", reason="needs triton")

GPU = "cuda" if torch.cuda.is_available() else "cpu"
SHIFT = {"shift": "balanced", "polarity": 0.3}
NAMES = [name for name, case in BALANCED.items() if not {"bias", "additive_mask"} <= case.arguments.keys()]
QUICK = {"causal_rows_without_keys", "softcap_and_bias", "additive_polarities", "packed_causal", "nothing_kept"}
HALF = {"plain", "additive", "keep", "tiny_scores", "large_scores", "polarity_per_head", "packed_causal", "long"}
QUICK_HALF = {"tiny_scores"}

pytestmark = pytest.mark.usefixtures("small_tiles")


def fused(query, key, value, **arguments):
    return tanhmax_attention(query, key, value, implementation="triton", **SHIFT | arguments)


def exact(query, key, value, **arguments):
    """The reference in float64, on the CPU."""
    placed = {name: item.cpu() if isinstance(item, torch.Tensor) else item for name, item in arguments.items()}
    return tanhmax_attention(*(tensor.double().cpu() for tensor in (query, key, value)), implementation="reference", **SHIFT | placed)


def tensors(batch=1, heads=2, kv_heads=1, queries=19, keys=37, head_dim=8, dtype=torch.float32):
    """At least as many queries as leave decoding out."""
    sizes = ((heads, queries), (kv_heads, keys), (kv_heads, keys))
    return [torch.randn(batch, many, length, head_dim, device=GPU).to(dtype) for many, length in sizes]


def against_the_oracle(name, dtype):
    inputs, arguments = BALANCED[f"balanced_{name}"].tensors(dtype)
    leaves = [tensor.detach().to(GPU).requires_grad_() for tensor in inputs]
    rest = iter(leaves[3:])
    placed = {
        key: item if not isinstance(item, torch.Tensor) else next(rest) if item.is_floating_point() else item.to(GPU)
        for key, item in arguments.items()
    }
    found = with_gradients(tanhmax_attention(*leaves[:3], implementation="triton", **placed), leaves)
    expected, roundings = measured(f"balanced_{name}", dtype)
    for one, true, rounding in zip(found, expected, roundings, strict=True):
        assert one.dtype == dtype
        assert one.isfinite().all()
        assert error(one.cpu(), true) <= allowed(rounding, dtype)


@pytest.mark.parametrize("name", sorted(QUICK))
def test_arguments_against_the_oracle(name):
    """No worse than eager attention in float32, outputs and gradients."""
    against_the_oracle(name, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in (name.removeprefix("balanced_") for name in NAMES) if name not in QUICK])
def test_every_argument_against_the_oracle(name, request):
    if name in ("long", "additive_long"):
        request.getfixturevalue("shipped_tiles")
    against_the_oracle(name, torch.float32)


@pytest.mark.slow_in_interpreter
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(HALF - QUICK_HALF))
def test_half_precision_by_triton(name, dtype, request):
    if dtype == torch.float16 and name not in ("keep", "large_scores"):
        thorough_only("bfloat16 takes the same branches")
    if name == "long":
        request.getfixturevalue("shipped_tiles")
    against_the_oracle(name, dtype)


@pytest.mark.parametrize("name", sorted(QUICK_HALF))
def test_half_precision_keeps_the_difference(name):
    """Far below eager attention's error where scores are tiny: the two halves are subtracted before anything is rounded."""
    against_the_oracle(name, torch.bfloat16)
    inputs, arguments = BALANCED[f"balanced_{name}"].tensors(torch.bfloat16)
    call = [tensor.detach().to(GPU) for tensor in inputs[:3]]
    placed = {key: item.detach().to(GPU) if isinstance(item, torch.Tensor) else item for key, item in arguments.items()}
    expected, _ = measured(f"balanced_{name}", torch.bfloat16)
    assert error(fused_only(*call, **placed).cpu(), expected[0]) < 4e-3


def fused_only(query, key, value, **arguments):
    """Not by the decoding kernel, however few the queries."""
    return tanhmax_attention(query.requires_grad_(), key, value, implementation="triton", **arguments).detach()


def test_keys_before_and_after_the_peak_of_a_row():
    """The shifts of both halves move from block to block, and with them what the keys so far weigh against each other."""
    query, key, value = tensors(heads=1, queries=17, keys=64)
    scores = torch.linspace(-40.0, 40.0, 64)[torch.randperm(64)]
    bias = torch.stack([scores, -scores, scores * 0.01, scores.abs(), -scores.abs()]).repeat(4, 1)[:17].to(GPU)
    for dtype, limit in ((torch.float32, 2e-6), (torch.bfloat16, 8e-3)):
        rounded = [tensor.to(dtype) for tensor in (query, key, value)]
        assert error(fused(*rounded, bias=bias, polarity=1.0).cpu(), exact(*rounded, bias=bias, polarity=1.0)) < limit


@pytest.mark.parametrize("queries", [1, 19])
def test_a_constant_in_a_row_changes_nothing(queries):
    """By the decoding kernel and by the others."""
    query, key, value = tensors(queries=queries)
    constant = torch.linspace(-30.0, 30.0, queries, device=GPU)[:, None]
    plain = fused(query, key, value)
    for added in ("bias", "additive_mask"):
        torch.testing.assert_close(fused(query, key, value, **{added: constant}), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("queries", [1, 19])
def test_rows_of_one_key_and_of_none(queries):
    query, key, value = tensors(queries=queries)
    keep = torch.zeros(1, 1, queries, 37, dtype=torch.bool, device=GPU)
    keep[..., 5] = True
    for polarity in (1.0, 0.25):
        expected = value[:, :, 5:6].expand(1, 2, queries, 8) * (1 - polarity) / (1 + polarity)
        torch.testing.assert_close(fused(query, key, value, keep=keep, polarity=polarity), expected)
    assert (fused(query, key, value, keep=torch.zeros_like(keep)) == 0).all()


@pytest.mark.parametrize("queries", [1, 19])
def test_polarity_0_is_softmax(queries):
    query, key, value = tensors(queries=queries)
    softmax = fused(query, key, value, shift=None, polarity=0.0)
    assert torch.equal(fused(query, key, value, polarity=0.0), softmax)
    found = fused(query, key, value, polarity=torch.tensor([0.0, 0.5], device=GPU))
    torch.testing.assert_close(found[:, 0], softmax[:, 0], rtol=1e-6, atol=1e-6)


def test_no_leak_from_later_keys_or_from_padding():
    query, key, value = tensors(queries=37)
    before = fused(query, key, value, is_causal=True)
    later = [tensor.clone() for tensor in (key, value)]
    later[0][:, :, 20:], later[1][:, :, 20:] = 1e3, -1e3
    assert torch.equal(fused(query, *later, is_causal=True)[:, :, :20], before[:, :, :20])
    keep = torch.arange(37, device=GPU) >= 9
    hidden = [tensor.clone() for tensor in (key, value)]
    hidden[0][:, :, :9], hidden[1][:, :, :9] = 7.0, -7.0
    masked = fused(query, *hidden, keep=keep.view(1, 1, 1, -1), is_causal=True)
    assert (masked[:, :, :9] == 0).all()
    torch.testing.assert_close(masked[:, :, 9:], fused(query[:, :, 9:], key[:, :, 9:], value[:, :, 9:], is_causal=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_logarithms_of_a_row(dtype):
    """A weight is the difference of the exponentials that they normalise; a row without a key has two infinite ones."""
    query, key, value = tensors(dtype=dtype)
    keep = torch.ones(1, 1, 19, 37, dtype=torch.bool, device=GPU)
    keep[..., 3, :] = False
    polarity = torch.tensor([0.2, 1.0], device=GPU)
    _, lse, statistics = fused_attention(
        query, key, value, polarity, None, None, keep, None, None, False, 0, None, 0.5, None, 0.0, True, True, True
    )
    scores = query.double() @ key.double().transpose(-1, -2) * 0.5
    shares = torch.stack([1 / (1 + polarity), polarity / (1 + polarity)]).double().log().view(2, 1, 2, 1)
    expected = torch.stack([scores, -scores]).logsumexp(-1) - shares
    assert lse[:, :, :, 3].isposinf().all()
    seen = torch.arange(19, device=GPU) != 3
    torch.testing.assert_close(lse[..., seen].double(), expected[..., seen], rtol=1e-6, atol=1e-5)
    assert statistics.shape == ((2, 2, 1, 2, 19) if dtype == torch.float32 else (1, 2, 19, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_the_same_weights_in_both_passes(dtype):
    """The mask is read off a call with an identity for values; with it, eager attention must have the same output and gradients."""
    if dtype == torch.float32:
        thorough_only("both sums of a row are found in another way, which dropout changes alike")
    query, key, value = (tensor.requires_grad_() for tensor in tensors(keys=29, head_dim=32, dtype=dtype))
    options = {"dropout_p": 0.4, "is_causal": "lower_right"}
    unit = torch.eye(29, 32, device=GPU).to(dtype).expand(1, 1, 29, 32)
    torch.manual_seed(11)
    survives = fused(query.detach(), key.detach(), unit, **options)[..., :29] != 0
    call = [tensor.detach().double().requires_grad_() for tensor in (query, key, value)]
    _, weights = tanhmax_attention(*call, is_causal="lower_right", return_weights=True, **SHIFT)
    survives |= weights == 0
    assert 0.5 < survives.float().mean() < 0.8
    torch.manual_seed(11)
    output = fused(query, key, value, **options)
    upstream = torch.randn_like(output)
    found = [output, *torch.autograd.grad(output, (query, key, value), upstream)]
    expected = (weights * survives.double() / 0.6) @ call[2].repeat_interleave(2, 1)
    wanted = [expected, *torch.autograd.grad(expected, call, upstream.double())]
    for one, other in zip(found, wanted, strict=True):
        assert error(one.detach().cpu(), other.detach().cpu()) < (1e-6 if dtype == torch.float32 else 8e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_a_polarity_per_head(dtype):
    """Also of 0, where it is one-sided, and beyond 1."""
    leaves = [tensor.requires_grad_() for tensor in (*tensors(heads=4, kv_heads=2, dtype=dtype), torch.tensor([1.0, 0.0, 1e-3, 1.7]))]
    leaves = [tensor.detach().to(GPU).requires_grad_() for tensor in leaves]
    twins = [tensor.detach().cpu().double().requires_grad_() for tensor in leaves]
    found = torch.autograd.grad(fused(*leaves[:3], polarity=leaves[3], softcap=2.0).square().sum(), leaves)
    expected = torch.autograd.grad(exact(*twins[:3], polarity=twins[3], softcap=2.0).square().sum(), twins)
    for one, other in zip(found, expected, strict=True):
        assert error(one.cpu(), other) < (2e-6 if dtype == torch.float32 else 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2, 19, 37), (1, 1, 1, 37), (1, 2, 19, 1)])
@pytest.mark.parametrize("added", ["bias", "additive_mask"])
def test_the_gradient_of_a_shared_bias_or_additive_mask(shape, added):
    if shape[-1] == 1:
        pytest.skip("what is one number for a row changes nothing")
    leaves = [tensor.requires_grad_() for tensor in (*tensors(), torch.randn(shape, device=GPU))]
    twins = [tensor.detach().cpu().double().requires_grad_() for tensor in leaves]
    found = torch.autograd.grad(fused(*leaves[:3], **{added: leaves[3]}, is_causal="lower_right").square().sum(), leaves)
    expected = torch.autograd.grad(exact(*twins[:3], **{added: twins[3]}, is_causal="lower_right").square().sum(), twins)
    for one, other in zip(found, expected, strict=True):
        assert error(one.cpu(), other) < 1e-6


@pytest.mark.slow
def test_the_backward_pass_in_one_kernel(monkeypatch):
    from hf_tanhmax.attention.kernels import launch
    from hf_tanhmax.attention.kernels.schedule import Tile

    monkeypatch.setenv("HF_TANHMAX_ATOMIC", "1")
    if GPU == "cpu":
        tile = Tile(16, 16, 4, 1)
        monkeypatch.setattr(launch, "tiles", lambda *_: (tile, Tile(16, 16, 4, 1, reduced=True)))
    leaves = [tensor.requires_grad_() for tensor in tensors(head_dim=64, dtype=torch.bfloat16)]
    twins = [tensor.detach().cpu().double().requires_grad_() for tensor in leaves]
    found = torch.autograd.grad(fused(*leaves, is_causal="lower_right").square().sum(), leaves)
    expected = torch.autograd.grad(exact(*twins, is_causal="lower_right").square().sum(), twins)
    for one, other in zip(found, expected, strict=True):
        assert error(one.cpu(), other) < 8e-3


def test_a_static_shift_is_not_for_it():
    """Both halves of each row have a sum of their own, which may vanish under a shift that fits the other."""
    from hf_tanhmax.attention.kernels import launch
    from hf_tanhmax.attention.kernels.schedule import Tile

    numbers = (None, True, AttentionMask(19, 37), None, 1.0, None, 0.0, None, False)
    call = tensors(head_dim=64, dtype=torch.bfloat16)
    for balanced in (False, True):
        problem = launch.FusedProblem(*call, *numbers, balanced=balanced)
        assert problem.fits(Tile(128, 64, 8, 3, static=True)) is not balanced


def test_second_derivatives():
    """Through the reference, as without a shift."""
    found = []
    for implementation in ("triton", "reference"):
        torch.manual_seed(3)
        leaves = [tensor.requires_grad_() for tensor in tensors(queries=3, keys=7)]
        output = tanhmax_attention(*leaves, is_causal="lower_right", implementation=implementation, **SHIFT)
        first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def operator_inputs(dtype):
    query, key, value = tensors(queries=3, keys=11, dtype=dtype)
    polarity = torch.tensor([0.2, 1.0], device=GPU)
    return OperatorInputs(query, key, value, polarity, *[None] * 5, False, 0, None, 0.5, None, 0.0, True, balanced=True, kernels=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    inputs = operator_inputs(dtype)
    torch.library.opcheck(fused_attention, tuple(inputs))
    results, upstream = fused_attention(*inputs), torch.randn_like(inputs.query)
    torch.library.opcheck(fused_attention_backward, (upstream, *results, None, True, False, False, *inputs))
    torch.library.opcheck(decode_attention, (*inputs, None, None))


@pytest.mark.slow
def test_compiles_in_one_graph():
    def call(query, key, value, polarity):
        return tanhmax_attention(query, key, value, polarity=polarity, shift="balanced", implementation="triton", is_causal=True).square()

    leaves = [tensor.requires_grad_() for tensor in (*tensors(queries=7, keys=7), torch.tensor([0.2, 0.7], device=GPU))]
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    loss, again = call(*leaves).sum(), compiled(*leaves).sum()
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(torch.autograd.grad(again, leaves), torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_of_the_keys_merge(dtype, monkeypatch):
    """At 7, more chunks than blocks: some have no key, and leave nothing; one query of the two sees no key at all."""
    query, key, value = tensors(queries=2, keys=61, dtype=dtype)
    bias = torch.linspace(-20.0, 20.0, 61, device=GPU).expand(1, 1, 2, 61).to(dtype)
    keep = torch.ones(1, 1, 2, 61, dtype=torch.bool, device=GPU)
    keep[..., 1, :] = False
    arguments = {"bias": bias, "keep": keep, "polarity": torch.tensor([1.0, 0.3], device=GPU)}
    monkeypatch.setattr(launch_decode, "SHORTEST", 1)
    wanted, lses = exact(query, key, value, **arguments), []
    for count in (1, 3, 7):
        monkeypatch.setattr(launch_decode, "splits", lambda *_, count=count: count)
        found = tanhmax_attention(query, key, value, implementation="decode", shift="balanced", **arguments)
        assert error(found.cpu(), wanted) < (1e-6 if dtype == torch.float32 else 8e-3)
        assert (found[:, :, 1] == 0).all()
        inputs = (query, key, value, arguments["polarity"], bias, None, keep, None, None, False, 0, None, 1.0, None, 0.0, True, True, True)
        lses.append(decode_attention(*inputs, None, None)[1])
    assert lses[0].shape == (2, 1, 2, 2)
    assert lses[0][..., 1].isposinf().all()
    for one in lses[1:]:
        torch.testing.assert_close(one, lses[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 4])
def test_reads_through_a_block_table(size):
    lengths, flat = (19, 0, 6), size == 1
    blocks = [-(-length // size) for length in lengths]
    order = torch.randperm(sum(blocks) + 2)
    pool = torch.randn(2, len(order), 1, size, 8, device=GPU)
    rows, table = order[: sum(blocks)].split(blocks), torch.full((3, max(blocks)), -1, dtype=torch.int32)
    for entry, mine in enumerate(rows):
        table[entry, : len(mine)] = mine
    query, bounds = torch.randn(3, 2, 2, 8, device=GPU), torch.tensor([0, *lengths], device=GPU).cumsum(0).to(torch.int32)
    options = {"is_causal": "lower_right", "polarity": torch.tensor([0.0, 0.6], device=GPU)}
    given = {"block_table": (order[: sum(blocks)] if flat else table).to(GPU), "cu_seqlens": bounds}
    found = tanhmax_attention(query, *pool, implementation="decode", shift="balanced", **given, **options)
    for entry, (mine, length) in enumerate(zip(rows, lengths, strict=True)):
        dense = [side[mine.to(GPU)].transpose(0, 1).flatten(1, 2)[None, :, :length] for side in pool]
        assert error(found[entry : entry + 1].cpu(), exact(query[entry : entry + 1], *dense, **options)) < 1e-6
