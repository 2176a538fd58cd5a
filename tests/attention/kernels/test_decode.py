"""Decoding against the reference in float64: arguments, groups, chunks, masks, block tables; what is not read, and what is refused."""

import pytest
import torch
from cases import CASES, allowed, error, measured
from thorough import thorough_only

from hf_tanhmax import tanhmax_attention, why_not
from hf_tanhmax.attention.ops import decode_attention

launch_decode = pytest.importorskip("hf_tanhmax.attention.kernels.launch_decode", reason="needs triton")

GPU = "cuda" if torch.cuda.is_available() else "cpu"
ARGUMENTS = [name for name, case in CASES.items() if case.queries <= 16 and "cu_seqlens" not in case.arguments]
ARGUMENTS = [name for name in ARGUMENTS if not {"bias", "additive_mask"} <= CASES[name].arguments.keys()]
QUICK = {
    "multi_query",
    "value_dim",
    "causal_rows_without_keys",
    "causal_window_chunk",
    "softcap_and_bias",
    "left_padding",
    "additive_polarities",
}
QUICK |= {"keep_per_head", "empty_rows", "nothing_kept", "polarity_above_1", "softmax_masked", "large_scores_masked", "tiny_scores"}

pytestmark = pytest.mark.usefixtures("small_tiles")


@pytest.fixture
def chunks(monkeypatch):
    """Split keys into so many chunks, however few keys there are."""

    def into(count):
        monkeypatch.setattr(launch_decode, "splits", lambda *_: count)
        monkeypatch.setattr(launch_decode, "SHORTEST", 1)

    return into


def placed(arguments):
    return {name: item.detach().to(GPU) if isinstance(item, torch.Tensor) else item for name, item in arguments.items()}


def decode(query, key, value, **arguments):
    tensors = [tensor.detach().to(GPU) for tensor in (query, key, value)]
    return tanhmax_attention(*tensors, implementation="decode", **placed(arguments)).cpu()


def exact(query, key, value, **arguments):
    """The reference in float64."""
    doubled = {
        name: item.double() if isinstance(item, torch.Tensor) and item.is_floating_point() else item for name, item in arguments.items()
    }
    return tanhmax_attention(query.double(), key.double(), value.double(), implementation="reference", **doubled)


def tensors(queries=1, keys=37, heads=2, kv_heads=1, batch=1, head_dim=8, dtype=torch.float32):
    sizes = ((heads, queries), (kv_heads, keys), (kv_heads, keys))
    return [torch.randn(batch, many, length, head_dim).to(dtype) for many, length in sizes]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_argument_against_the_oracle(name, count, chunks):
    if name not in QUICK or (count == 2 and name not in ("empty_rows", "softcap_and_bias", "causal_window_chunk", "additive_polarities")):
        thorough_only("each argument is run once")
    chunks(count)
    inputs, arguments = CASES[name].tensors(torch.float32)
    found = decode(*inputs[:3], **arguments)
    exact, roundings = measured(name, torch.float32)
    assert found.isfinite().all()
    assert error(found, exact[0]) <= allowed(roundings[0], torch.float32)


@pytest.mark.parametrize("queries", [1, 2, 5, 16])
@pytest.mark.parametrize("group", [1, 3, 8])
def test_groups_and_queries(group, queries):
    """Whatever the group, its rows share tiles, and the last of them may be padded."""
    if (group, queries) not in ((1, 1), (3, 2), (8, 5)):
        thorough_only("three of twelve combinations are run")
    call = tensors(queries, 21, heads=group)
    assert error(decode(*call, is_causal="lower_right"), exact(*call, is_causal="lower_right")) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, chunks):
    chunks(3)
    call = tensors(2, dtype=dtype)
    found = decode(*call, is_causal="lower_right")
    assert found.dtype == dtype
    assert error(found, exact(*call, is_causal="lower_right")) < 2 * torch.finfo(dtype).eps


def test_many_chunks_equal_one(chunks):
    call, found = tensors(2, 61), []
    for count in (1, 4, 19):  # at 19, more chunks than blocks: some are empty
        chunks(count)
        found.append(decode(*call, is_causal="lower_right", polarity=0.3))
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_the_log_sum_exp(count, chunks):
    chunks(count)
    query, key, value = tensors(2)
    keep = (torch.arange(37) < 30).repeat(1, 1, 2, 1)
    keep[0, 0, 1] = False
    call = [tensor.to(GPU) for tensor in (query, key, value)]
    constants = (False, 0, None, 0.5, None, 0.0, True, False, True)
    output, lse = decode_attention(*call, *[None] * 3, keep.to(GPU), None, None, *constants, None, None)
    scores = (query.double() @ key.double().transpose(-1, -2) * 0.5)[..., :30]
    torch.testing.assert_close(lse[..., 0].cpu().double(), torch.cat([scores, -scores], -1).logsumexp(-1)[..., 0], rtol=1e-6, atol=1e-6)
    assert lse[..., 1].isposinf().all()
    assert (output[:, :, 1] == 0).all()


def test_a_cached_step_equals_the_whole():
    query, key, value = tensors(21, 21)
    whole = exact(query, key, value, is_causal=True)
    for first, last in ((20, 21), (14, 19)):
        step = decode(query[:, :, first:last], key[:, :, :last], value[:, :, :last], is_causal="lower_right")
        assert error(step, whole[:, :, first:last]) < 1e-6


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ({"keep": (torch.arange(70) >= 37).view(1, 1, 1, -1)}, slice(37, 70)),
        ({"keep": (torch.arange(70) < 20).view(1, 1, 1, -1)}, slice(0, 20)),
        ({"is_causal": "lower_right", "window": 9}, slice(61, 70)),
        ({"is_causal": "upper_left"}, slice(0, 1)),
    ],
    ids=["left padding", "unused end", "window", "future"],
)
def test_what_is_hidden_is_not_read(arguments, seen, count, chunks):
    """It is NaN, which any product with it would show; also a block that is seen in part must not leak."""
    chunks(count)
    query, key, value = tensors(1, 70)
    clean = decode(query, key[:, :, seen], value[:, :, seen])
    for tensor in (key, value):
        hidden = torch.ones(70, dtype=torch.bool)
        hidden[seen] = False
        tensor[:, :, hidden] = float("nan")
    torch.testing.assert_close(decode(query, key, value, **arguments), clean, rtol=1e-5, atol=1e-6)


def paged(lengths, size, kv_heads=1, flat=False):
    """Query, blocks in any order, and table and bounds; blocks that nobody uses are NaN."""
    needed = [-(-length // size) for length in lengths]
    order = torch.randperm(sum(needed) + 3)
    pools = [torch.full((len(order), kv_heads, size, 8), float("nan")) for _ in range(2)]
    table, dense, taken = torch.full((len(lengths), max(needed) + 1), -1, dtype=torch.int32), [], 0
    for entry, (length, blocks) in enumerate(zip(lengths, needed, strict=True)):
        mine = order[taken : taken + blocks]
        table[entry, :blocks] = mine
        taken += blocks
        pair = [torch.randn(1, kv_heads, length, 8) for _ in pools]
        for pool, tensor in zip(pools, pair, strict=True):
            for position in range(length):
                pool[mine[position // size], :, position % size] = tensor[0, :, position]
        dense.append(pair)
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return pools, order[:taken] if flat else table, bounds, dense


@pytest.mark.parametrize(("size", "flat", "count"), [(1, True, 1), (4, False, 2), (1, False, 1)])
@pytest.mark.parametrize(
    "arguments", [{"is_causal": "lower_right"}, {"is_causal": "lower_right", "window": 5, "polarity": 0.4}, {}], ids=str
)
def test_paged_equals_dense(size, flat, count, arguments, chunks):
    if arguments != {"is_causal": "lower_right", "window": 5, "polarity": 0.4} and not flat:
        thorough_only("the flat table is run with each")
    chunks(count)
    (key, value), table, bounds, dense = paged((19, 0, 6), size, flat=flat)
    query = torch.randn(3, 2, 2, 8)
    wanted = torch.cat([exact(query[i : i + 1], *pair, **arguments) for i, pair in enumerate(dense)])
    call = {"block_table": table, "cu_seqlens": bounds, **arguments}
    assert error(decode(query, key, value, **call), wanted) < 1e-6
    assert error(exact(query, key, value, **call), wanted) < 1e-12
    assert torch.equal(
        tanhmax_attention(query, key, value, **call), tanhmax_attention(query, key, value, implementation="reference", **call)
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"queries": 17}, "takes 1 to 16 queries, but there are 17"),
        ({"dropout_p": 0.1}, "has no dropout, but dropout_p is 0.1"),
        ({"requires_grad": True}, "has no gradient, but one is needed; call it under torch.no_grad(), or detach the tensors"),
        ({"return_weights": True}, "has no weights to return"),
        ({"dtype": torch.float64}, "computes float16, bfloat16 and float32, but the tensors are torch.float64"),
    ],
    ids=str,
)
def test_why_it_cannot_run(changes, reason):
    sizes = {name: changes.pop(name) for name in ("queries", "dtype") if name in changes}
    gradient = changes.pop("requires_grad", False)
    call = [tensor.to(GPU).requires_grad_(gradient) for tensor in tensors(**sizes)]
    assert why_not(*call, implementation="decode", **changes) == f"implementation='decode' {reason}"
    with pytest.raises(NotImplementedError, match="implementation='decode' "):
        tanhmax_attention(*call, implementation="decode", **changes)
    with torch.no_grad():
        if gradient:
            assert why_not(*call, implementation="decode") is None


def test_packed_sequences_are_not_decoded():
    call = tensors(5, 5)
    reason = why_not(*(tensor.to(GPU) for tensor in call), cu_seqlens=torch.tensor([0, 2, 5], device=GPU), implementation="decode")
    assert reason.endswith("has no packed sequences, but cu_seqlens is given without a block_table")


def test_the_fused_implementation_decodes_unless_there_is_a_gradient(monkeypatch):
    from hf_tanhmax.attention import api as attention

    ran = []
    for name in ("decode_attention", "fused_attention"):
        whole = getattr(attention, name)
        monkeypatch.setattr(attention, name, lambda *call, name=name, whole=whole: (ran.append(name), whole(*call))[1])
    call = [tensor.to(GPU) for tensor in tensors(1, 11)]
    tanhmax_attention(*call, implementation="triton")
    tanhmax_attention(call[0].requires_grad_(), *call[1:], implementation="triton").sum().backward()
    assert ran == ["decode_attention", "fused_attention"]
    table = {"block_table": torch.zeros(1, 1, dtype=torch.int32, device=GPU), "cu_seqlens": torch.tensor([0, 1], device=GPU)}
    with pytest.raises(NotImplementedError, match="implementation='triton' has no gradient"):
        tanhmax_attention(*call, implementation="triton", **table)
    on_cpu = {name: item.cpu() for name, item in table.items()}
    with pytest.raises(NotImplementedError, match="implementation='cpu' reads no block table"):
        tanhmax_attention(*(tensor.cpu() for tensor in call), implementation="cpu", **on_cpu)


def test_opcheck():
    call = [tensor.to(GPU) for tensor in tensors(2, 11)]
    torch.library.opcheck(decode_attention, (*call, *[None] * 6, True, 9, None, 0.5, None, 0.0, True, False, True, None, None))


@pytest.mark.gpu
@pytest.mark.skipif(GPU == "cpu", reason="needs a CUDA device")
def test_a_cuda_graph_replays_while_the_cache_fills():
    query, key, value = (tensor.to(GPU) for tensor in tensors(1, 4096, 8, 2, head_dim=64, dtype=torch.bfloat16))
    keep = (torch.arange(4096, device=GPU) < 700).view(1, 1, 1, -1).clone()

    def step():
        return tanhmax_attention(query, key, value, keep=keep, implementation="decode")

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    for length in (700, 4096, 1):
        keep.copy_((torch.arange(4096, device=GPU) < length).view(1, 1, 1, -1))
        graph.replay()
        assert error(found.cpu(), exact(query.cpu(), key[:, :, :length].cpu(), value[:, :, :length].cpu())) < 1e-2
