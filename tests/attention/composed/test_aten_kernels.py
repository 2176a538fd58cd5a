"""The stock kernels: what is relied on, which one is chosen, what is refused, and numbers.

The numbers are measured twice: with the CUDA operators emulated on the CPU (which checks what goes in and comes out, not the kernels), and
with the kernels themselves on a GPU, where there is one.
"""

import math
from dataclasses import replace

import pytest
import torch
from cases import CASES, EAGER, H, allowed, error, measured, with_gradients
from torch._subclasses.fake_tensor import FakeTensorMode

from hf_tanhmax.attention.composed import identities as composed
from hf_tanhmax.attention.composed.aten_kernels import KERNELS
from hf_tanhmax.attention.composed.identities import composed_attention
from hf_tanhmax.attention.mask import AttentionMask

ON_CUDA = ("flash", "cudnn", "efficient")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
ARGUMENTS = {
    "flash_attention_for_cpu": "query key value dropout_p is_causal attn_mask scale",
    "flash_attention_for_cpu_backward": "grad_out query key value out logsumexp dropout_p is_causal attn_mask scale",
    "flash_attention": "query key value dropout_p is_causal return_debug_mask scale",
    "flash_attention_backward": "grad_out query key value out logsumexp cum_seq_q cum_seq_k max_q max_k dropout_p is_causal "
    "philox_seed philox_offset scale",
    "cudnn_attention": "query key value attn_bias compute_log_sumexp dropout_p is_causal return_debug_mask scale",
    "cudnn_attention_backward": "grad_out query key value out logsumexp philox_seed philox_offset attn_bias cum_seq_q cum_seq_k "
    "max_q max_k dropout_p is_causal scale",
    "efficient_attention": "query key value attn_bias compute_log_sumexp dropout_p is_causal scale",
    "efficient_attention_backward": "grad_out_ query key value attn_bias out logsumexp philox_seed philox_offset dropout_p grad_input_mask "
    "is_causal scale",
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_operators_have_the_arguments_that_are_relied_on(name):
    schema = getattr(torch.ops.aten, f"_scaled_dot_product_{name}").default._schema
    assert [argument.name for argument in schema.arguments] == ARGUMENTS[name].split()


def softmax_forward(query, key, value, mask, causal, scale):
    """Output and log-sum-exp of any operator here, in float64."""
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.double().repeat_interleave(groups, 1) for tensor in (key, value))
    scores = query.double() @ key.transpose(-1, -2) * scale + (0.0 if mask is None else mask.double())
    if causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    lse = scores.logsumexp(-1, keepdim=True)
    assert lse.isfinite().all()  # a row without keys is left open: not every kernel survives one
    return scores, (scores - lse).exp() @ value, lse.squeeze(-1).float()


def softmax_backward(grad_output, query, key, value, mask, output, lse, causal, scale):
    """The gradients that a flash backward pass computes from the output and log-sum-exp that it is given."""
    kv_heads, dtype = key.shape[1], query.dtype
    scores, _, _ = softmax_forward(query, key, value, mask, causal, scale)
    grad_output, output, query = grad_output.double(), output.double(), query.double()
    key, value = (tensor.double().repeat_interleave(query.shape[1] // kv_heads, 1) for tensor in (key, value))
    weights = (scores - lse.double()[..., None]).exp()
    grad_scores = weights * (grad_output @ value.transpose(-1, -2) - (grad_output * output).sum(-1, keepdim=True)) * scale
    grad_key, grad_value = grad_scores.transpose(-1, -2) @ query, weights.transpose(-1, -2) @ grad_output
    grouped = [gradient.unflatten(1, (kv_heads, -1)).sum(2) for gradient in (grad_key, grad_value)]
    return tuple(gradient.to(dtype) for gradient in (grad_scores @ key, *grouped))


def check_inputs(*tensors):
    for tensor in tensors:
        assert tensor.dtype == tensors[0].dtype
        assert tensor.shape[-1] == tensors[0].shape[-1]
        assert tensor.shape[-1] % 8 == 0
        assert tensor.stride(-1) == 1


def by_position(output, query):
    """The layout in which flash and efficient return: heads inside positions."""
    return output.to(query.dtype).transpose(1, 2).contiguous().transpose(1, 2)


def flash(query, key, value, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None):
    check_inputs(query, key, value)
    assert not is_causal or query.shape[2] == key.shape[2]
    _, output, lse = softmax_forward(query, key, value, None, is_causal, scale)
    seed = torch.zeros(2, dtype=torch.uint64)
    return by_position(output, query), lse, None, None, query.shape[2], key.shape[2], seed, seed[0].clone(), query.new_zeros(0)


def flash_backward(grad, query, key, value, out, lse, cum_q, cum_k, max_q, max_k, dropout_p, is_causal, seed, offset, *, scale=None):
    check_inputs(query, key, value, out, grad)
    assert lse.is_contiguous()
    assert lse.shape == query.shape[:3]
    assert (max_q, max_k) == (query.shape[2], key.shape[2])
    return softmax_backward(grad, query, key, value, None, out, lse, is_causal, scale)


def cudnn(query, key, value, attn_bias, compute_log_sumexp, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None):
    check_inputs(query, key, value)
    assert compute_log_sumexp
    assert attn_bias is None or attn_bias.is_contiguous()
    _, output, lse = softmax_forward(query, key, value, attn_bias, is_causal, scale)
    output = torch.empty_like(query).copy_(output)
    seed = torch.zeros((), dtype=torch.long)
    return output, lse[..., None], None, None, query.shape[2], key.shape[2], seed, seed.clone(), query.new_zeros(0)


def cudnn_backward(grad, query, key, value, out, lse, seed, offset, bias, cum_q, cum_k, max_q, max_k, dropout_p, is_causal, *, scale=None):
    check_inputs(query, key, value, out, grad)
    assert lse.shape == (*query.shape[:3], 1)
    assert out.stride() == grad.stride() == torch.empty_like(query).stride()
    return softmax_backward(grad, query, key, value, bias, out, lse.squeeze(-1), is_causal, scale)


def check_efficient(query, key, value, bias):
    check_inputs(query, key, value)
    assert query.shape[1] == key.shape[1]
    if bias is not None:
        assert bias.shape == (*query.shape[:3], key.shape[2])
        assert bias.dtype == query.dtype
        assert bias.stride(3) == 1
        assert all(stride % 8 == 0 for stride, size in zip(bias.stride()[:3], bias.shape[:3], strict=True) if size > 1)


def efficient(query, key, value, attn_bias, compute_log_sumexp, dropout_p=0.0, is_causal=False, *, scale=None):
    check_efficient(query, key, value, attn_bias)
    assert compute_log_sumexp
    _, output, lse = softmax_forward(query, key, value, attn_bias, is_causal, scale)
    lse = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=math.inf)
    seed = torch.zeros((), dtype=torch.long)
    return by_position(output, query), lse, seed, seed.clone()


def efficient_backward(grad, query, key, value, bias, out, lse, seed, offset, dropout_p, grad_input_mask, is_causal=False, *, scale=None):
    check_efficient(query, key, value, bias)
    assert out.transpose(1, 2).is_contiguous()
    assert lse.is_contiguous()
    assert lse.shape[-1] % 32 == 0
    assert (lse[..., query.shape[2] :] == math.inf).all()
    assert list(grad_input_mask) == [True, True, True, False]
    return *softmax_backward(grad, query, key, value, bias, out, lse[..., : query.shape[2]], is_causal, scale), None


EMULATED = {
    "flash_attention": flash,
    "flash_attention_backward": flash_backward,
    "cudnn_attention": cudnn,
    "cudnn_attention_backward": cudnn_backward,
    "efficient_attention": efficient,
    "efficient_attention_backward": efficient_backward,
}
ON_A_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=ON_A_GPU)])
def device(request, monkeypatch):
    """Where the CUDA kernels run: emulated on the CPU, or on a GPU."""
    if request.param == "cuda":
        yield "cuda"
        return
    for name in ON_CUDA:
        monkeypatch.setitem(KERNELS, name, replace(KERNELS[name], device="cpu"))
    with torch.library._scoped_library("aten", "IMPL") as library:
        for name, function in EMULATED.items():
            library.impl(f"_scaled_dot_product_{name}", function, "CPU")
        yield "cpu"


def mask_of(case, arguments, device):
    causal, keep, bounds = (arguments.get(name) for name in ("is_causal", "keep", "cu_seqlens"))
    return AttentionMask(
        case.queries,
        case.keys,
        causal=bool(causal),
        offset=case.keys - case.queries if causal == "lower_right" else 0,
        window=arguments.get("window"),
        keep=None if keep is None else keep[(None,) * (4 - keep.dim())].to(device),
        segments=None if bounds is None else torch.searchsorted(bounds.to(device), torch.arange(case.keys, device=device), right=True),
    )


def run(case, kernel, dtype, device):
    """Output and gradients of query, key and value, on the CPU; bias and polarity want none."""
    inputs, arguments = case.tensors(dtype)
    bias = arguments.get("bias")
    output = composed_attention(
        *(tensor.to(device) for tensor in inputs[:3]),
        mask_of(case, arguments, device),
        bias=None if bias is None else bias.detach()[(None,) * (4 - bias.dim())].to(device),
        scale=arguments.get("scale", inputs[0].shape[-1] ** -0.5),
        polarity=torch.as_tensor(arguments.get("polarity", 1.0), dtype=torch.float32).detach().expand(H).to(device),
        kernel=kernel,
    )
    assert output.dtype == dtype
    return with_gradients(output.cpu(), inputs[:3])


FULL_OR_CAUSAL = ("plain", "multi_head", "multi_query", "causal", "long", "scale", "half_polarity", "softmax", "polarity_some_heads")
FULL_OR_CAUSAL = (*FULL_OR_CAUSAL, "value_dim", "one_query", "more_queries", "large_scores")
MASKED = ("causal_lower_right", "causal_rows_without_keys", "window", "left_padding", "right_padding", "keep", "keep_per_head", "keep_2d")
MASKED = (*MASKED, "empty_rows", "nothing_kept", "bias", "bias_per_head", "bias_positions", "bias_2d", "packed_causal", "softmax_masked")


@pytest.mark.slow_in_interpreter
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", ON_CUDA)
@pytest.mark.parametrize("name", [*FULL_OR_CAUSAL, "causal_upper_left", *MASKED])
def test_numbers(name, kernel, dtype, device):
    """No worse than twice the worst of eager runs in the same dtype, number by number: there are two halves to be wrong."""
    case = CASES[name]
    if dtype not in KERNELS[kernel].dtypes or (kernel == "flash" and name not in FULL_OR_CAUSAL):
        with pytest.raises(NotImplementedError, match=f"kernel='{kernel}' (takes|is causal for)"):
            run(case, kernel, dtype, device)
        return
    exact, roundings = measured(name, dtype, EAGER)
    for found, true, rounding in zip(run(case, kernel, dtype, device), exact, roundings, strict=False):
        assert found.isfinite().all()
        if math.isfinite(rounding):
            assert error(found, true) <= 2 * allowed(rounding, dtype)


@pytest.mark.parametrize("kernel", ["cudnn", "efficient"])
def test_empty_rows_are_zero_and_give_nothing(kernel, device):
    """To the keys neither: rows that see nothing change no gradient."""
    case = CASES["nothing_kept"]
    for found in run(case, kernel, torch.float16, device):
        assert (found == 0).all()


@pytest.mark.parametrize("kernel", ON_CUDA)
def test_strided_tensors(kernel, device):
    """As they come from one projection, and with a last dimension that is not dense."""
    dtype, mask, polarity = torch.float16, AttentionMask(7, 7, causal=True), torch.ones(H, device=device)
    arguments = {"scale": 0.4, "polarity": polarity, "kernel": kernel}
    packed = torch.randn(2, 7, 3, H, 8, device=device, dtype=dtype)
    strided = [tensor.transpose(1, 2).requires_grad_() for tensor in packed.unbind(2)]
    flipped = [tensor.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_() for tensor in strided]
    dense = [tensor.detach().contiguous().requires_grad_() for tensor in strided]
    outputs = [(composed_attention(*item, mask, **arguments), item) for item in (dense, strided, flipped)]
    expected, *others = ([item.cpu() for item in with_gradients(output.cpu(), inputs)] for output, inputs in outputs)
    for found in others:
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=4e-3, atol=4e-3)


def fake_call(dtype, kernel=None, device="cuda", bias=False, queries=7, keys=11, width=5, value_dim=5, requires_grad=False, **visible):
    """A call of tensors that hold no numbers, and the three of them."""
    options = {"device": device, "dtype": dtype}
    shapes = (2, H, queries, width), (2, H // 2, keys, width), (2, H // 2, keys, value_dim)
    tensors = [torch.empty(shape, **options, requires_grad=requires_grad) for shape in shapes]
    if "keep" in visible:
        visible["keep"] = torch.empty(2, 1, queries, keys, dtype=torch.bool, device=device)
    arguments = {"bias": torch.empty(1, H, 1, keys, device=device) if bias else None, "polarity": torch.empty(H, device=device)}
    return composed_attention(*tensors, AttentionMask(queries, keys, **visible), **arguments, scale=1.0, kernel=kernel), tensors


@pytest.fixture
def _names_for_outputs(monkeypatch):
    """`composed_attention` returns what it would run."""
    monkeypatch.setattr(composed, "_two_calls", lambda *_, name, **__: name)
    monkeypatch.setattr(composed, "doubled_keys", lambda *_, **__: "doubled keys")


def chosen(dtype, **arguments):
    with FakeTensorMode():
        return fake_call(dtype, **arguments)[0]


@pytest.mark.usefixtures("_names_for_outputs")
@pytest.mark.parametrize(
    ("dtype", "arguments", "expected"),
    [
        (torch.float16, {}, "flash"),
        (torch.bfloat16, {"causal": True, "keys": 7}, "flash"),
        (torch.float16, {"causal": True, "offset": 10, "queries": 1}, "flash"),
        (torch.float16, {"width": 3, "value_dim": 250}, "flash"),
        (torch.float16, {"causal": True}, "efficient"),
        (torch.float16, {"causal": True, "offset": 4}, "efficient"),
        (torch.float16, {"width": 257}, "efficient"),
        (torch.bfloat16, {"keep": True}, "efficient"),
        (torch.bfloat16, {"bias": True}, "efficient"),
        (torch.float16, {"window": 3}, "efficient"),
        (torch.float32, {}, "efficient"),
        (torch.float32, {"causal": True, "keep": True}, "efficient"),
        (torch.float64, {}, "doubled keys"),
    ],
)
def test_which_kernel_is_chosen(dtype, arguments, expected):
    assert chosen(dtype, **arguments) == expected


@pytest.mark.usefixtures("_names_for_outputs")
@pytest.mark.parametrize(
    ("capability", "dtype", "expected"),
    [((7, 5), torch.float16, "efficient"), ((7, 5), torch.bfloat16, "doubled keys"), ((8, 0), torch.bfloat16, "flash")],
)
def test_older_gpus_get_what_they_can_run(capability, dtype, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert chosen(dtype) == expected


@pytest.mark.usefixtures("_names_for_outputs")
def test_rocm_gets_doubled_keys(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert chosen(torch.float16) == "doubled keys"


@pytest.mark.usefixtures("_names_for_outputs")
def test_what_wants_gradients_gets_doubled_keys():
    query, arguments = torch.randn(1, 2, 3, 4), {"scale": 1.0, "polarity": torch.ones(2, requires_grad=True)}
    assert composed_attention(query, query, query, AttentionMask(3, 3), **arguments) == "doubled keys"
    with torch.no_grad():
        assert composed_attention(query, query, query, AttentionMask(3, 3), **arguments) == "cpu"


@pytest.mark.parametrize("arguments", [{}, {"causal": True, "queries": 11}, {"keep": True}, {"bias": True, "value_dim": 13}, {"window": 3}])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", ON_CUDA)
def test_shapes_that_torch_says_its_kernels_return(kernel, dtype, arguments, monkeypatch):
    """On the meta device, through autograd. Fake CUDA tensors will not do: without CUDA, autograd on them aborts the process."""
    monkeypatch.setitem(KERNELS, kernel, replace(KERNELS[kernel], device="meta"))
    call = {"dtype": dtype, "kernel": kernel, "device": "meta", "requires_grad": True, **arguments}
    if dtype not in KERNELS[kernel].dtypes or (kernel == "flash" and {"keep", "bias", "window"} & set(arguments)):
        with pytest.raises(NotImplementedError, match=f"kernel='{kernel}' takes"):
            fake_call(**call)
        return
    output, tensors = fake_call(**call)
    gradients = torch.autograd.grad(output, tensors, torch.empty_like(output))
    assert output.shape == (*tensors[0].shape[:3], tensors[2].shape[3])
    for found, like in zip((output, *gradients), (output, *tensors), strict=True):
        assert (found.shape, found.dtype, found.device) == (like.shape, dtype, like.device)


@pytest.mark.parametrize(
    ("arguments", "error_type", "message"),
    [
        ({"kernel": "math"}, ValueError, "unknown kernel 'math'; there are cpu, flash, cudnn, efficient"),
        ({"kernel": "cpu"}, NotImplementedError, "kernel='cpu' runs on cpu alone, but the tensors are on cuda:0; use kernel=None"),
        ({"kernel": "flash", "dtype": torch.float32}, NotImplementedError, "takes torch.float16, torch.bfloat16, but .* torch.float32"),
        ({"kernel": "efficient", "dtype": torch.float64}, NotImplementedError, "torch.float32, but the tensors are torch.float64"),
        ({"kernel": "flash", "keep": True}, NotImplementedError, "takes neither mask nor bias, but the call needs one"),
        ({"kernel": "flash", "causal": True}, NotImplementedError, "is causal for as many queries as keys, but there are 7 and 11"),
        ({"kernel": "cudnn", "width": 300}, NotImplementedError, "takes heads of at most 256, but they have 300"),
        ({"kernel": "cudnn", "keys": 1}, NotImplementedError, "wants at least 2 keys, but there is 1"),
    ],
)
def test_refusals(arguments, error_type, message):
    with FakeTensorMode(), pytest.raises(error_type, match=message):
        fake_call(**{"dtype": torch.float16, **arguments})


def test_a_named_kernel_refuses_old_gpus_rocm_and_gradients_of_the_polarity(monkeypatch):
    query, polarity = torch.randn(1, 2, 3, 4), torch.ones(2, requires_grad=True)
    with pytest.raises(
        NotImplementedError, match="kernel='cpu' has no gradient for bias, additive mask and polarity, but one of them requires it"
    ):
        composed_attention(query, query, query, AttentionMask(3, 3), scale=1.0, polarity=polarity, kernel="cpu")
    with pytest.raises(NotImplementedError, match="kernel='flash' runs on cuda alone, but the tensors are on cpu"):
        composed_attention(query, query, query, AttentionMask(3, 3), scale=1.0, polarity=polarity.detach(), kernel="flash")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(NotImplementedError, match=r"wants compute capability 8\.0 for torch\.float16, but cuda:0 is older"):
        chosen(torch.float16, kernel="flash")
    monkeypatch.setattr(torch.version, "hip", "7.0")
    with pytest.raises(NotImplementedError, match="is wired for CUDA, but this torch is built for ROCm"):
        chosen(torch.float16, kernel="flash")
