"""Between tensors and kernels: what decides about compilation, layouts, and that nothing waits for the device."""

import json
import os
import subprocess
import sys

import pytest
import torch
from cases import error

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.mask import AttentionMask
from hf_tanhmax.attention.ops import fused_attention

launch = pytest.importorskip("hf_tanhmax.attention.kernels.launch", reason="needs triton")
from hf_tanhmax.attention.kernels.schedule import Tile

GPU = "cuda" if torch.cuda.is_available() else "cpu"
TILE = Tile(16, 16, 4, 1)


def problem(queries=19, keys=37, head_dim=64, value_dim=64, layout="bhsd", dtype=torch.float16, **changes):
    def tensor(heads, length, width):
        if layout == "bhsd":
            return torch.randn(2, heads, length, width).to(dtype)
        return torch.randn(2, length, heads, width).to(dtype).transpose(1, 2)

    fields = {
        "polarity": None,
        "signed": True,
        "bias": None,
        "scale": 0.5,
        "softcap": None,
        "dropout_p": 0.0,
        "seed": None,
        "exact": False,
        **changes,
    }
    tensors = tensor(4, queries, head_dim), tensor(2, keys, head_dim), tensor(2, keys, value_dim)
    return launch.FusedProblem(*tensors, visibility=AttentionMask(queries, keys, causal=True), **fields)


@pytest.mark.parametrize("head_dim", [16, 64, 80, 5])
@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_what_is_compiled_does_not_depend_on_the_length(layout, head_dim):
    constants = [
        problem(queries, keys, head_dim, head_dim, layout).constants(TILE)
        for queries, keys in ((1, 1), (2, 3), (16, 64), (19, 37), (128, 8))
    ]
    assert all(found == constants[0] for found in constants)
    assert constants[0]["ALIGN"] == (1 if head_dim == 5 else 8)


@pytest.fixture
def precision():
    """torch's settings of float32 products, as they were, after the test."""
    yield torch.backends
    torch.backends.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")


def by_the_new_api(matmul="none", everything="none"):
    torch.backends.fp32_precision, torch.backends.cuda.matmul.fp32_precision = everything, matmul


@pytest.mark.parametrize(
    ("choose", "exact"),
    [
        (lambda: None, True),
        (lambda: torch.set_float32_matmul_precision("highest"), True),
        (lambda: torch.set_float32_matmul_precision("high"), False),
        (lambda: torch.set_float32_matmul_precision("medium"), False),
        (lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True), False),
        (lambda: by_the_new_api("ieee"), True),
        (lambda: by_the_new_api("tf32"), False),
        (lambda: by_the_new_api(everything="tf32"), False),  # as the Trainer does, told tf32=True
        (lambda: by_the_new_api("ieee", everything="tf32"), True),
        (lambda: (torch.set_float32_matmul_precision("high"), by_the_new_api("ieee")), True),
    ],
    ids=["unset", "highest", "high", "medium", "allow_tf32", "new ieee", "new tf32", "new for all", "ieee in tf32", "high, then ieee"],
)
def test_both_ways_to_say_tf32_are_understood(precision, choose, exact):
    """torch itself raises where one way is asked after the other was used."""
    choose()
    tensors = [torch.randn(1, 1, length, 8, device=GPU, requires_grad=True) for length in (5, 7, 7)]
    assert launch.is_exact(tensors[0]) is exact
    assert not launch.is_exact(tensors[0].half())
    output = tanhmax_attention(*tensors, implementation="triton")
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = tanhmax_attention(*wide, implementation="reference")
    found = torch.autograd.grad(output.square().sum(), tensors)
    for one, other in zip(found, torch.autograd.grad(expected.square().sum(), wide), strict=True):
        assert error(one.cpu(), other.cpu()) < (1e-6 if exact else 5e-3)


@pytest.mark.slow
def test_every_run_time_integer_is_left_unspecialised():
    """Triton compiles anew for integers that are 1 or divisible by 16, unless told not to."""
    code = """
import json
from hf_tanhmax.attention.kernels import backward, forward, masks, shift
kernels = [forward.forward_kernel, masks.mask_kernel, shift.norm_kernel]
kernels += [getattr(backward, f"{name}_kernel") for name in ("delta", "key_value", "query", "bias")]
floats = ("scale", "cap", "factor", "dropout_p")
print(json.dumps([
    (kernel.fn.__name__, parameter.name)
    for kernel in kernels for parameter in kernel.params
    if not parameter.is_constexpr and not parameter.name.isupper() and parameter.name not in floats and not parameter.do_not_specialize
]))
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(run.stdout) == []


@pytest.mark.gpu
@pytest.mark.skipif(GPU == "cpu", reason="needs a CUDA device")
def test_a_new_length_compiles_nothing():
    from hf_tanhmax.attention.kernels.forward import forward_kernel

    counts = []
    for length in (64, 65, 80, 1, 129):
        query = torch.randn(1, 2, length, 64, device=GPU, dtype=torch.bfloat16)
        tanhmax_attention(query, query, query, is_causal=True, implementation="triton")
        counts.append(sum(len(caches[0]) for caches in forward_kernel.device_caches.values()))
    assert len(set(counts)) == 1


@pytest.mark.gpu
@pytest.mark.skipif(GPU == "cpu", reason="needs a CUDA device")
def test_a_cuda_graph_replays_both_passes():
    tensors = [torch.randn(2, 4, 100, 64, device=GPU, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    keep = torch.arange(100, device=GPU) < 70

    def step():
        output = tanhmax_attention(*tensors, keep=keep.view(1, 1, 1, -1), is_causal=True, dropout_p=0.1, implementation="triton")
        return output, *torch.autograd.grad(output.float().square().sum(), tensors)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    with torch.no_grad():
        tensors[0].mul_(2.0)
    torch.cuda.manual_seed(3)
    graph.replay()
    replayed = [tensor.clone() for tensor in found]
    torch.cuda.manual_seed(3)
    graph.replay()
    assert all(torch.equal(one, other) for one, other in zip(replayed, found, strict=True))
    assert all(tensor.isfinite().all() for tensor in replayed)


@pytest.mark.gpu
@pytest.mark.skipif(GPU == "cpu", reason="needs a CUDA device")
def test_nothing_waits_for_the_device():
    tensors = [torch.randn(2, 4, 100, 64, device=GPU, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    keep = torch.rand(2, 1, 100, 100, device=GPU) > 0.2
    call = {"keep": keep, "dropout_p": 0.1, "polarity": 0.5, "implementation": "triton"}
    tanhmax_attention(*tensors, **call).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        tanhmax_attention(*tensors, **call).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_tensors_device_need_not_be_the_current_one():
    near = [torch.randn(2, 4, 33, 64, device="cuda:0", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    far = [tensor.detach().to("cuda:1").requires_grad_() for tensor in near]
    outputs = [tanhmax_attention(*tensors, implementation="triton") for tensors in (near, far)]
    assert torch.equal(outputs[0].cpu(), outputs[1].cpu())
    gradients = [torch.autograd.grad(output.sum(), tensors) for output, tensors in zip(outputs, (near, far), strict=True)]
    assert all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(*gradients, strict=True))


def test_running_out_of_memory_leaves_nothing_behind(monkeypatch):
    tensors = [torch.randn(1, 2, 19, 8, device=GPU, requires_grad=True) for _ in range(3)]
    expected = tanhmax_attention(*tensors, implementation="triton")
    with monkeypatch.context() as context:
        context.setattr(launch, "dense", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
        with pytest.raises(torch.OutOfMemoryError, match="no memory"):
            tanhmax_attention(*tensors, implementation="triton")
        with pytest.raises(torch.OutOfMemoryError, match="no memory"):
            expected.sum().backward(retain_graph=True)
    assert all(tensor.grad is None for tensor in tensors)
    expected.sum().backward()
    assert torch.equal(tanhmax_attention(*tensors, implementation="triton"), expected)


def test_shapes_past_two_to_the_31_elements():
    query = torch.empty(64, 64, 16384, 64, device="meta", dtype=torch.bfloat16, requires_grad=True)
    assert query.numel() > 2**31
    constants = (True, 0, None, 0.1, None, 0.0, True, False, True)
    output, lse, _ = fused_attention(query, query, query, *[None] * 6, *constants)
    assert output.shape == query.shape
    assert output.stride() == (16384 * 64 * 64, 64, 64 * 64, 1)
    assert lse.shape == query.shape[:3]
    (gradient,) = torch.autograd.grad(output.sum(), query)
    assert gradient.shape == query.shape


def test_results_lie_as_transformers_wants_them_next():
    output, lse, stats = launch.outputs(*(torch.empty(2, 4, 7, 16, dtype=torch.bfloat16),) * 2, balanced=False)
    assert output.shape == (2, 4, 7, 16)
    assert output.transpose(1, 2).is_contiguous()
    assert lse.shape == (2, 4, 7)
    assert lse.dtype == torch.float32
    assert stats is None


def test_rows_that_are_not_dense_or_lie_too_far_apart_are_copied():
    sparse = torch.zeros(3 * 32).as_strided((1, 1, 3, 8), (0, 0, 32, 4))
    assert launch._rows(sparse).stride() == (24, 24, 8, 1)
    far = torch.zeros(launch.LONGEST_ROW_STRIDE + 8).as_strided((1, 1, 2, 8), (0, 0, launch.LONGEST_ROW_STRIDE, 1))
    assert launch._rows(far).stride()[2:] == (8, 1)
    dense = torch.zeros(1, 1, 3, 8)
    assert launch._rows(dense) is dense


def test_no_kernel_adds_atomically():
    """So every result is the same to the bit; but for the one sum that a user asks for, which the launcher hands in as SUM_Q."""
    import inspect

    from hf_tanhmax.attention.kernels import backward, forward, masks, primitives, shift

    modules = backward, forward, masks, primitives, shift
    found = [line for module in modules for line in inspect.getsource(module).split('"""', 2)[2].splitlines()]
    assert [line.split("(")[0].strip() for line in found if "atomic" in line] == ["SUM_Q.atomic_add"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_a_group_that_is_split_has_the_same_gradients(monkeypatch, kv_heads, dtype):
    """The heads of a group in shares of unequal size, several blocks of rows and of keys; every run has the same bits."""
    torch.manual_seed(0)
    sizes = ((6, 37, 16), (kv_heads, 41, 16), (kv_heads, 41, 16))
    tensors = [torch.randn(1, *size, device=GPU, dtype=dtype, requires_grad=True) for size in sizes]
    upstream = torch.randn(1, 6, 37, 16, device=GPU, dtype=dtype)

    def gradients(rows, processors):
        launched = []
        usual = launch.group_splits

        def split(*sizes):
            launched.append(usual(*sizes))
            return launched[-1]

        with monkeypatch.context() as context:
            context.setattr("hf_tanhmax.attention.kernels.schedule.LEAST_ROWS", rows)
            context.setattr(launch, "multiprocessors", lambda _: processors)
            context.setattr(launch, "group_splits", split)
            output = tanhmax_attention(*tensors, is_causal="lower_right", polarity=0.5, implementation="triton")
            return launched, torch.autograd.grad(output, tensors, upstream)

    (whole, expected), (split, found), (_, again) = gradients(10**9, 4), gradients(1, 4), gradients(1, 4)
    assert whole == [1]
    assert split[0] > 1
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    output = tanhmax_attention(*wide, is_causal="lower_right", polarity=0.5, implementation="reference")
    true = torch.autograd.grad(output, wide, upstream.double())
    for one, other, third in zip(found, expected, true, strict=True):
        assert error(one.cpu(), third.cpu()) < 1.1 * error(other.cpu(), third.cpu())


@pytest.mark.parametrize(
    ("dtype", "exact", "word", "expected"),
    [
        (torch.float32, True, "", "ieee"),
        (torch.float32, True, "tf32x3", "tf32x3"),
        (torch.float32, False, "tf32x3", "tf32"),  # torch was told that this is enough
        (torch.bfloat16, False, "tf32x3", "ieee"),
    ],
)
def test_how_products_are_formed(monkeypatch, dtype, exact, word, expected):
    monkeypatch.setenv("HF_TANHMAX_FLOAT32", word)
    assert problem(dtype=dtype, exact=exact).constants(TILE)["PRECISION"] == expected


def test_split_products_compute_the_same(monkeypatch):
    """The interpreter forms one product in full; what three TF32 products lose, a GPU must show."""
    tensors = [torch.randn(1, heads, length, 64, device=GPU, requires_grad=True) for heads, length in ((2, 9), (1, 21), (1, 21))]
    results = []
    for word in ("ieee", "tf32x3"):
        monkeypatch.setenv("HF_TANHMAX_FLOAT32", word)
        output = tanhmax_attention(*tensors, is_causal="lower_right", implementation="triton")
        results.append([output, *torch.autograd.grad(output.square().sum(), tensors)])
    for one, other in zip(*results, strict=True):
        assert error(one.cpu(), other.cpu()) < 1e-5


def test_an_unknown_way_to_form_products_is_refused(monkeypatch):
    monkeypatch.setenv("HF_TANHMAX_FLOAT32", "bf16x3")
    tensors = [torch.randn(1, 1, 5, 8, device=GPU) for _ in range(3)]
    with pytest.raises(ValueError, match="HF_TANHMAX_FLOAT32 must be ieee or tf32x3, but is 'bf16x3'"):
        tanhmax_attention(*tensors, implementation="triton")
