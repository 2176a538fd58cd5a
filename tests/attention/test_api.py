"""Every argument on every implementation, against the oracle; leaks; the door's checks."""

import math

import pytest
import torch
from cases import (
    BALANCED,
    CASES,
    EAGER,
    ORDERS,
    Case,
    allowed,
    doubled_softmax,
    error,
    measured,
    oracle,
    order_of_summation,
    with_gradients,
)
from thorough import thorough_only
from torch.autograd import forward_ad

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.api import IMPLEMENTATIONS

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
EVERY = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
# Of an additive mask the interpreter is asked what its other arguments change in the kernels.
QUICK_ADDITIVE = {"additive", "additive_learned", "additive_polarities", "additive_softcap", "additive_packed", "additive_large_scores"}
QUICK_ADDITIVE |= {"additive_long", "additive_nothing_kept"}
HALF = {
    "plain",
    "additive",
    "causal",
    "bias",
    "keep",
    "tiny_scores",
    "large_scores",
    "large_scores_masked",
    "polarity_per_head",
    "packed_causal",
    "long",
}
STOCK = ("composed", "portable")  # out of softmax attention
GPU = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = pytest.mark.usefixtures("small_tiles")


def refusal(case, implementation):
    """Why an implementation refuses a case of the table, as matched in the error; None if it does not."""
    if implementation in STOCK and "softcap" in case.arguments:
        return "has no softcap"
    if implementation == "triton" and {"bias", "additive_mask"} <= case.arguments.keys():
        return "takes a bias or an additive mask, but both are given"
    return None


def place(implementation):
    return GPU if implementation == "triton" else "cpu"


def tensors_of(case, implementation, dtype=None):
    """Inputs and arguments in the most exact dtype of an implementation and where it runs, unless a dtype is given."""
    fused = implementation == "triton"
    inputs, arguments = case.tensors(dtype or (torch.float32 if fused else torch.float64))
    if fused and GPU != "cpu":
        inputs = [tensor.detach().to(GPU).requires_grad_() for tensor in inputs]
        rest = iter(inputs[3:])
        for name, item in arguments.items():
            if isinstance(item, torch.Tensor):
                arguments[name] = next(rest) if item.is_floating_point() else item.to(GPU)
    return inputs, arguments


def run(case, implementation, dtype=torch.float64):
    inputs, arguments = tensors_of(case, implementation, dtype)
    found = with_gradients(tanhmax_attention(*inputs[:3], implementation=implementation, **arguments), inputs)
    return [tensor.cpu() for tensor in found]


def expected_of(case):
    inputs, arguments = case.tensors()
    return with_gradients(oracle(inputs, arguments)[0], inputs)


@EVERY
@pytest.mark.parametrize("name", [*CASES, *BALANCED])
def test_float64_equals_the_oracle(name, implementation):
    case = (CASES | BALANCED)[name]
    if reason := refusal(case, implementation):
        with pytest.raises(NotImplementedError, match=reason):
            run(case, implementation)
        return
    if implementation == "triton":
        with pytest.raises(NotImplementedError, match=r"computes float16, bfloat16 and float32, but the tensors are torch\.float64"):
            run(case, implementation)
        return
    for found, expected in zip(run(case, implementation), expected_of(case), strict=True):
        if expected.isfinite().all():  # the oracle's own gradient for a polarity of 0 is not
            assert error(found, expected) < 1e-11
        assert found.isfinite().all()


@pytest.mark.slow_in_interpreter
@EVERY
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("name", CASES)
def test_lower_precision_is_no_worse_than_eager(name, dtype, implementation, request):
    """No worse than the worst of eager runs in the same dtype, number by number, whatever order a processor adds in.

    What is out of softmax attention is held against eager compositions too, whose two halves cancel as its own do (documented), and may be
    half as much worse.
    """
    case = CASES[name]
    if refusal(case, implementation):
        pytest.skip("refused")
    if implementation == "triton" and "additive_mask" in case.arguments and name not in QUICK_ADDITIVE:
        thorough_only("other arguments are run with an additive mask, and this one without")
    if implementation == "triton" and dtype != torch.float32 and name not in HALF:
        thorough_only("float32 takes the same branches")
    if implementation == "triton" and dtype != torch.bfloat16 and name == "long":
        thorough_only("bfloat16 runs the tiles of the table too")
    if name in ("long", "additive_long"):
        request.getfixturevalue("shipped_tiles")
    exact, roundings = measured(name, dtype, EAGER if implementation in STOCK else (doubled_softmax,))
    for found, true, rounding in zip(run(case, implementation, dtype), exact, roundings, strict=True):
        assert found.dtype == dtype
        assert found.isfinite().all()
        if true.isfinite().all() and math.isfinite(rounding):
            assert error(found, true) <= (1.5 if implementation in STOCK else 1.0) * allowed(rounding, dtype)


@pytest.mark.parametrize("implementation", ["reference", "cpu"])
@pytest.mark.parametrize("name", ["large_scores", "large_scores_masked", "large_scores_softmax"])
def test_large_scores_are_as_exact_as_eager_on_average(name, implementation):
    """Over all orders of the head dimension, which change nothing but rounding, and so average out a processor's luck with one of them."""
    (query, key, value), arguments = CASES[name].tensors(torch.float32)
    exact, _ = measured(name, torch.float32)
    squares = torch.zeros(2, len(exact))
    for number in range(ORDERS):
        order = torch.tensor(order_of_summation(query.shape[-1], number))
        inputs = [query.detach()[..., order].requires_grad_(), key.detach()[..., order].requires_grad_(), value]
        for row, output in enumerate(
            (tanhmax_attention(*inputs, implementation=implementation, **arguments), oracle(inputs, arguments)[0])
        ):
            output, *by_order, by_value = with_gradients(output, inputs)
            found = [output, *(gradient[..., order.argsort()] for gradient in by_order), by_value]
            squares[row] += torch.tensor([error(one, true) ** 2 for one, true in zip(found, exact, strict=True)])
    assert (squares[0] <= 1.25**2 * squares[1]).all(), (squares[0] / squares[1]).sqrt()


@pytest.mark.slow_in_interpreter
@EVERY
@pytest.mark.parametrize(
    "name",
    [
        *sorted(set(CASES) - {"plain", "long", "packed_causal", "multi_head", "multi_query", "additive_constant", "additive_long"}),
        *("balanced_additive_and_bias", "balanced_polarity_per_head", "balanced_packed_window", "balanced_causal_window_chunk"),
    ],
)
def test_every_argument_moves_the_output(name, implementation):
    """No implementation swallows an argument: without it the output is another one."""
    case = (CASES | BALANCED)[name]
    if not case.arguments or refusal(case, implementation):
        pytest.skip("nothing to drop, or refused")
    if implementation == "triton" and "additive_mask" in case.arguments and name not in QUICK_ADDITIVE:
        thorough_only("each argument is dropped once")
    inputs, arguments = tensors_of(case, implementation)
    full = tanhmax_attention(*inputs[:3], implementation=implementation, **arguments)
    for dropped in arguments:
        rest = {key: item for key, item in arguments.items() if key != dropped}
        if dropped == "is_causal" and "window" in rest:
            rest["window"] = case.keys
        assert not torch.allclose(full, tanhmax_attention(*inputs[:3], implementation=implementation, **rest)), dropped


@EVERY
def test_no_future_leak(implementation):
    inputs, _ = tensors_of(Case(queries=11), implementation)
    query, key, value = (tensor.detach() for tensor in inputs)
    before = tanhmax_attention(query, key, value, is_causal=True, implementation=implementation)
    for position in (10, 7, 3):
        key[:, :, position:], value[:, :, position:] = 1e3, float("-1e3")
        after = tanhmax_attention(query, key, value, is_causal=True, implementation=implementation)
        if implementation == "triton":
            assert torch.equal(after[:, :, :position], before[:, :, :position])
        torch.testing.assert_close(after[:, :, :position], before[:, :, :position], rtol=0, atol=1e-12)


@EVERY
@pytest.mark.parametrize("side", ["left", "right"])
def test_no_padding_leak_and_masked_equals_sliced(side, implementation):
    inputs, _ = tensors_of(Case(queries=11), implementation)
    query, key, value = (tensor.detach() for tensor in inputs)
    kept = slice(4, None) if side == "left" else slice(None, 7)
    keep = torch.zeros(11, dtype=torch.bool, device=query.device)
    keep[kept] = True
    arguments = {"is_causal": True, "implementation": implementation}
    sliced = tanhmax_attention(query[:, :, kept], key[:, :, kept], value[:, :, kept], **arguments)
    key[:, :, ~keep], value[:, :, ~keep] = 7.0, -7.0
    masked = tanhmax_attention(query, key, value, keep=keep.view(1, 1, 1, -1), **arguments)
    torch.testing.assert_close(masked[:, :, kept], sliced)
    if side == "left":
        assert (masked[:, :, :4] == 0).all()


@EVERY
def test_batch_invariance(implementation):
    inputs, arguments = tensors_of(CASES["keep"], implementation)
    inputs[0].data[1] *= 100  # another row must not change how this one is computed
    together = tanhmax_attention(*inputs, implementation=implementation, **arguments)
    alone = [tensor[:1] for tensor in inputs]
    torch.testing.assert_close(
        together[:1], tanhmax_attention(*alone, keep=arguments["keep"][:1], implementation=implementation), rtol=1e-12, atol=1e-14
    )


@EVERY
@pytest.mark.parametrize("chunks", [(11,), (4, 7), (5, 1, 1, 4)])
def test_chunked_prefill_and_cached_decoding_equal_full(chunks, implementation):
    inputs, _ = tensors_of(Case(queries=11), implementation)
    full = tanhmax_attention(*inputs, is_causal=True, implementation=implementation)
    start, parts = 0, []
    for chunk in chunks:
        stop = start + chunk
        query, key, value = inputs[0][:, :, start:stop], inputs[1][:, :, :stop], inputs[2][:, :, :stop]
        parts.append(tanhmax_attention(query, key, value, is_causal="lower_right", implementation=implementation))
        start = stop
    torch.testing.assert_close(torch.cat(parts, 2), full)


@EVERY
def test_strided_inputs(implementation):
    inputs, _ = tensors_of(Case(), implementation)
    strided = [tensor.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for tensor in inputs]
    found = with_gradients(tanhmax_attention(*strided, implementation=implementation), strided)
    for one, other in zip(found, expected_of(Case()), strict=True):
        assert error(one.cpu(), other) < (1e-6 if implementation == "triton" else 1e-12)


@EVERY
def test_no_keys(implementation):
    query, nothing = (torch.randn(2, 3, length, 7, device=place(implementation), requires_grad=True) for length in (5, 0))
    output = tanhmax_attention(query, nothing, nothing, implementation=implementation)
    assert torch.equal(output, torch.zeros_like(query))
    if implementation in ("triton", "cpu"):
        output.sum().backward()
        assert torch.equal(query.grad, torch.zeros_like(query))
        assert nothing.grad.shape == nothing.shape


@EVERY
@pytest.mark.parametrize("shape", [(0, 3, 5, 7), (2, 3, 0, 7)])
def test_nothing_to_compute(shape, implementation):
    nothing = torch.randn(shape, device=place(implementation), requires_grad=True)
    keys = torch.randn(shape[0], 3, 5, 7, device=place(implementation), requires_grad=True)
    output = tanhmax_attention(nothing, keys, keys, implementation=implementation)
    assert output.shape == shape
    output.sum().backward()
    assert torch.equal(keys.grad, torch.zeros_like(keys))


@EVERY
def test_nan_propagates_only_to_its_rows(implementation):
    query, key, value = torch.randn(3, 1, 2, 5, 7, device=place(implementation)).unbind()
    query[0, 0, 3] = float("nan")
    output = tanhmax_attention(query, key, value, implementation=implementation)
    stock = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    expected = stock[0, 0, 3] if implementation in STOCK else torch.full_like(query[0, 0, 3], float("nan"))  # the stock kernel may write 0
    torch.testing.assert_close(output[0, 0, 3], expected, equal_nan=True)
    assert output[0, 1].isfinite().all()


@EVERY
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'>:DeprecationWarning")  # Dynamo's own
def test_compiles_in_one_graph(implementation):
    query, key, value = (torch.randn(2, 4, 7, 8, device=place(implementation), requires_grad=True) for _ in range(3))

    def call(query, key, value):
        return tanhmax_attention(query, key, value, is_causal=True, implementation=implementation).square().sum()

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    loss, again = call(query, key, value), compiled(query, key, value)
    torch.testing.assert_close(again, loss)
    expected = torch.autograd.grad(loss, (query, key, value))
    torch.testing.assert_close(torch.autograd.grad(again, (query, key, value)), expected)


@EVERY
def test_autocast_does_not_lower_the_precision_inside(implementation):
    query, key, value = torch.randn(3, 2, 4, 7, 8, device=place(implementation)).unbind()
    with torch.autocast(place(implementation), torch.bfloat16):
        inside = tanhmax_attention(query, key, value, implementation=implementation)
    assert torch.equal(inside, tanhmax_attention(query, key, value, implementation=implementation))


def test_auto_returns_the_weights_of_the_reference():
    inputs, arguments = CASES["keep"].tensors()
    output, weights = tanhmax_attention(*inputs, return_weights=True, **arguments)
    expected_output, expected_weights = oracle(inputs, arguments)
    torch.testing.assert_close(output, expected_output)
    torch.testing.assert_close(weights, expected_weights)
    assert (weights < 0).any()


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["reference", "cpu", "triton"])
def test_dropout_keeps_the_mean_and_drops_weights(implementation):
    rows = 1024
    device = place(implementation)
    query, key = torch.randn(1, 1, 1, 8, device=device), torch.randn(1, 1, 32, 8, device=device)
    value = torch.eye(32, device=device).view(1, 1, 32, 32)  # so that the output is the weights
    full = tanhmax_attention(query, key, value, implementation="reference")[0, 0, 0]
    drawn = tanhmax_attention(query.expand(-1, -1, rows, -1), key, value, dropout_p=0.25, implementation=implementation)
    kept = drawn[0, 0] != 0
    assert abs(kept.float().mean().item() - 0.75) < 0.015
    torch.testing.assert_close(drawn[0, 0][kept], (full / 0.75).expand(rows, -1)[kept])
    assert len({tuple(row) for row in kept.tolist()}) > rows * 0.99  # every row draws its own


@pytest.mark.slow_in_interpreter
@pytest.mark.parametrize("implementation", ["reference", "cpu"])
@pytest.mark.parametrize("shift", [None, "balanced"])
def test_dropout_gradients(shift, implementation):
    mask = torch.tensor([0.0, -0.7, -20.0, 0.4, 0.3], dtype=torch.float64)
    inputs, _ = Case({"additive_mask": mask}, queries=3, keys=5, batch=1).tensors()

    def call(*tensors):
        torch.manual_seed(5)
        arguments = {"additive_mask": tensors[3], "polarity": 0.7, "shift": shift, "implementation": implementation}
        return tanhmax_attention(*tensors[:3], **arguments, dropout_p=0.5)

    assert not torch.equal(call(*inputs), tanhmax_attention(*inputs[:3], additive_mask=inputs[3], polarity=0.7, shift=shift))
    assert torch.autograd.gradcheck(call, inputs)


@pytest.mark.slow_in_interpreter
@pytest.mark.parametrize("implementation", ["reference", "cpu", "portable"])
def test_second_derivatives(implementation):
    mask = torch.tensor([0.0, -0.7, -20.0, -9001.0, 0.3], dtype=torch.float64)
    inputs, _ = Case({"bias": torch.randn(1, 6, 1, 1, dtype=torch.float64), "additive_mask": mask}, queries=3, keys=5, batch=1).tensors()

    def call(query, key, value, bias, additive_mask):
        added = {"bias": bias, "additive_mask": additive_mask}
        return tanhmax_attention(query, key, value, **added, is_causal="lower_right", implementation=implementation)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


Q = torch.randn(2, 4, 5, 8)


@pytest.mark.parametrize(
    ("arguments", "error_type", "message"),
    [
        ({"implementation": "flash"}, ValueError, "unknown implementation 'flash'; there are auto, reference"),
        ({"implementation": "cpu", "return_weights": True}, NotImplementedError, "'cpu' has no weights to return"),
        ({"shift": "centred"}, ValueError, "shift must be None or \"balanced\", but is 'centred'"),
        ({"implementation": "composed", "shift": "balanced", "dropout_p": 0.1}, NotImplementedError, "'composed' has no dropout"),
        ({"implementation": "composed", "softcap": 2.0}, NotImplementedError, "'composed' has no softcap"),
        ({"implementation": "composed", "dropout_p": 0.1}, NotImplementedError, "'composed' has no dropout"),
        ({"implementation": "portable", "softcap": 2.0}, NotImplementedError, "'portable' has no softcap"),
        ({"implementation": "portable", "dropout_p": 0.1}, NotImplementedError, "'portable' has no dropout"),
        ({"implementation": "portable", "return_weights": True}, NotImplementedError, "'portable' has no weights to return"),
    ],
)
def test_what_an_implementation_refuses(arguments, error_type, message):
    with pytest.raises(error_type, match=message):
        tanhmax_attention(Q, Q, Q, **arguments)


def test_cpu_implementation_needs_the_cpu():
    meta = Q.to("meta")
    with pytest.raises(NotImplementedError, match="'cpu' runs on the CPU alone, but the tensors are on meta"):
        tanhmax_attention(meta, meta, meta, implementation="cpu")


@pytest.mark.parametrize("implementation", [*(name for name in IMPLEMENTATIONS if name != "reference"), "auto"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # which torch's own formulas ask
def test_forward_derivatives_are_computed_or_refused(implementation):
    """torch's own operators have none, and would leave them out without a word."""
    query, key, value, direction = torch.randn(4, 1, 2, 5, 4).unbind()

    def call(query, key=key, implementation=implementation):
        return tanhmax_attention(query, key, value, is_causal=True, implementation=implementation)

    if implementation != "auto":
        with pytest.raises(NotImplementedError, match="has no forward-mode derivatives; use implementation='auto'"):
            torch.func.jvp(call, (query,), (direction,))
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="has no forward-mode derivatives"):
            call(query, key=forward_ad.make_dual(key, direction))
        return
    step = 1e-3
    expected = (call(query + step * direction, implementation="reference") - call(query - step * direction, implementation="reference")) / (
        2 * step
    )
    torch.testing.assert_close(torch.func.jvp(call, (query,), (direction,))[1], expected, rtol=1e-2, atol=1e-3)
    with forward_ad.dual_level():
        output = call(forward_ad.make_dual(query, direction))
        torch.testing.assert_close(forward_ad.unpack_dual(output).tangent, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("implementation", ["reference", "composed", "cpu", "portable"])
@pytest.mark.parametrize("shift", [None, "balanced"])
@pytest.mark.parametrize("wrong", [math.nan, -0.5, -1.0])
def test_a_polarity_that_is_none_is_not_softmax(implementation, shift, wrong):
    """A learned one becomes NaN where a training run diverges; one below 0 means nothing."""
    query = torch.randn(1, 2, 20, 8)
    polarity = torch.tensor([wrong, 1.0])
    output = tanhmax_attention(query, query, query, polarity=polarity, shift=shift, implementation=implementation)
    assert output[:, 0].isnan().all()
    assert output[:, 1].isfinite().all()


@pytest.mark.parametrize("implementation", ["reference", "composed", "cpu", "portable"])
def test_a_polarity_is_a_score_bias_of_either_sign(implementation):
    """p = exp(-2c), so a learned c that falls below 0 makes a polarity above 1; a number is chosen, between softmax and TanhMax."""
    query, key, value = (torch.randn(2, 3, 20, 8, dtype=torch.float64) for _ in range(3))
    score_bias = torch.tensor([-1.3, -0.2, 0.7], dtype=torch.float64, requires_grad=True)
    output = tanhmax_attention(query, key, value, polarity=torch.exp(-2 * score_bias), implementation=implementation)
    expected = tanhmax_attention(query, key, value, bias=score_bias.view(1, 3, 1, 1).expand(2, 3, 20, 20), implementation="reference")
    torch.testing.assert_close(output, expected, atol=1e-12, rtol=1e-12)
    found, wanted = (torch.autograd.grad(each.square().sum(), score_bias)[0] for each in (output, expected))
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_scale_that_is_not_finite_is_refused(scale):
    query = torch.randn(1, 2, 20, 8)
    with pytest.raises(ValueError, match="scale must be finite, but is"):
        tanhmax_attention(query, query, query, scale=scale)


@pytest.mark.parametrize("implementation", ["auto", "reference", "composed", "cpu"])
@pytest.mark.parametrize("sizes", [(0, 0, 8), (8, 8, 0)])
def test_tensors_without_features_are_refused(implementation, sizes):
    query, key, value = (torch.randn(1, 2, 20, size) for size in sizes)
    with pytest.raises(ValueError, match=f"must have at least one feature, but have {sizes[0]}, {sizes[1]} and {sizes[2]}"):
        tanhmax_attention(query, key, value, implementation=implementation)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by which torch's Hessian is made
@pytest.mark.parametrize("shift", [None, "balanced"])
def test_transforms_of_functions_are_served_by_the_reference_or_refused(shift):
    """Gradients of single rows, as influence functions and differential privacy take them."""
    tensors = tuple(torch.randn(3, 2, 5, 4, dtype=torch.float64) for _ in range(3))

    def loss(query, key, value, implementation="auto"):
        return tanhmax_attention(query, key, value, shift=shift, is_causal=True, implementation=implementation).square().sum()

    found = torch.func.vmap(torch.func.grad(lambda *row: loss(*(tensor[None] for tensor in row))))(*tensors)
    query = tensors[0].clone().requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(loss(query, *tensors[1:]), query)[0])
    hessian = torch.func.hessian(lambda query: loss(query, *tensors[1:]))(tensors[0])
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(lambda query: loss(query, *tensors[1:], "reference"), tensors[0]))
    for name in ("cpu", *(("composed",) if shift is None else ())):
        with pytest.raises(NotImplementedError, match=f"implementation='{name}' has no rules for derivatives within torch.func"):
            torch.func.grad(lambda query, name=name: loss(query, *tensors[1:], name))(tensors[0])
