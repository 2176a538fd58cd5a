"""One table of attention calls, and the oracle that every implementation is measured against.

The oracle is softmax attention over doubled keys, written out in float64: it shares no line with the package.

How far from it an implementation may be is measured by eager runs in the implementation's own dtype. One such run is no measure: at scores
of 100 its error in float32 is that of the sums q k, and the order in which a processor adds these up changes it by a factor of six. So
eager attention is run in many orders of summation that are the same on every processor, and for each number the largest error counts:
`rounding_error`. Where scores are large, this is all that is `allowed`: whatever the order, the implementations stay below it.
"""

import functools
import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch

ORDERS = 60  # in which five products are added up, as a + b is b + a
B, H, HK, LQ, LK, D, DV = 2, 6, 3, 7, 11, 5, 5


@dataclass
class Case:
    """One call: sizes, the keyword arguments of `tanhmax_attention`, and which of them need a gradient."""

    arguments: dict[str, Any] = field(default_factory=dict)
    kv_heads: int = HK
    queries: int = LQ
    keys: int = LK
    value_dim: int = DV
    batch: int = B
    std: float = 1.0

    def tensors(self, dtype=torch.float64):
        """Query, key, value, and the arguments in `dtype`; all floating-point tensors want gradients."""
        generator = torch.Generator().manual_seed(1)

        def normal(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        query = normal(self.batch, H, self.queries, D) * self.std
        key, value = normal(self.batch, self.kv_heads, self.keys, D), normal(self.batch, self.kv_heads, self.keys, self.value_dim)
        found = {
            name: item.to(dtype) if isinstance(item, torch.Tensor) and item.is_floating_point() else item
            for name, item in self.arguments.items()
        }
        inputs = [tensor.to(dtype).requires_grad_() for tensor in (query, key, value)]
        for name, item in found.items():
            if isinstance(item, torch.Tensor) and item.is_floating_point():
                found[name] = item.clone().requires_grad_()
                inputs.append(found[name])
        return inputs, found


def _mask(*shape, empty=None):
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(2)) > 0.4
    if empty is not None:
        keep[empty] = False
    return keep


def _padding(side, lengths):
    positions = torch.arange(LK)
    rows = [positions < length if side == "right" else positions >= LK - length for length in lengths]
    return torch.stack(rows)[:, None, None]


_bias = torch.randn(B, H, LQ, LK, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _additive(*shape, learned=False):
    """An additive mask of hidden keys (-20, -30, -100, -1000 and what hides outright), keys that fade, and keys as they are."""
    generator = torch.Generator().manual_seed(4)
    small = torch.randn(shape, generator=generator, dtype=torch.float64)
    if learned:
        return small
    values = torch.tensor([-20.0, -30.0, -100.0, -1000.0, -9984.0, -math.inf, 0.0, 0.0, 0.0, 0.5], dtype=torch.float64)
    drawn = values[torch.randint(len(values), shape, generator=generator)]
    return torch.where(drawn == 0.5, small, drawn)


# How far keys lie from queries, times a slope for each head: shares fade with distance.
_alibi = -(torch.arange(LQ)[:, None] - torch.arange(LK)).abs() * 2.0 ** -torch.arange(6, dtype=torch.float64)[:, None, None]
_packed = {"kv_heads": HK, "queries": LK, "keys": LK, "batch": 1}

CASES: dict[str, Case] = {
    "plain": Case(),
    "multi_head": Case(kv_heads=H),
    "multi_query": Case(kv_heads=1),
    "value_dim": Case(value_dim=3),
    "one_query": Case(queries=1),
    "more_queries": Case(queries=13, keys=5),
    "scale": Case({"scale": 0.3}),
    "causal": Case({"is_causal": True}, queries=LK),
    "causal_upper_left": Case({"is_causal": "upper_left"}),
    "causal_lower_right": Case({"is_causal": "lower_right"}),
    "causal_rows_without_keys": Case({"is_causal": "lower_right"}, queries=13, keys=5),
    "window": Case({"window": 2}, queries=LK),
    "causal_window": Case({"window": 3, "is_causal": True}, queries=LK),
    "causal_window_chunk": Case({"window": 3, "is_causal": "lower_right"}),
    "softcap": Case({"softcap": 1.5}, std=3.0),
    "right_padding": Case({"keep": _padding("right", (5, 11))}),
    "left_padding": Case({"keep": _padding("left", (5, 11)), "is_causal": "lower_right"}),
    "keep": Case({"keep": _mask(B, 1, LQ, LK)}),
    "keep_per_head": Case({"keep": _mask(B, H, LQ, LK)}),
    "keep_2d": Case({"keep": _mask(LQ, LK)}),
    "empty_rows": Case({"keep": _mask(B, 1, LQ, LK, empty=(0, 0, slice(2, 4)))}),
    "nothing_kept": Case({"keep": torch.zeros(1, 1, 1, LK, dtype=torch.bool)}),
    "bias": Case({"bias": _bias}),
    "bias_per_head": Case({"bias": _bias[:1, :, :1, :1]}),
    "bias_positions": Case({"bias": _bias[:1], "keep": _mask(B, 1, LQ, LK)}),
    "bias_2d": Case({"bias": _bias[0, 0], "is_causal": True}),
    "softcap_and_bias": Case({"softcap": 1.5, "bias": _bias, "is_causal": "lower_right"}, std=3.0),
    "additive": Case({"additive_mask": _additive(B, H, LQ, LK)}),
    "additive_one_head": Case({"additive_mask": _additive(B, 1, LQ, LK), "polarity": 0.3}),
    "additive_keys": Case({"additive_mask": _additive(B, 1, 1, LK)}),
    "additive_per_head": Case({"additive_mask": _additive(1, H, 1, LK, learned=True) - 50.0, "is_causal": True}),
    "additive_learned": Case({"additive_mask": _additive(1, H, LQ, LK, learned=True), "keep": _mask(B, 1, LQ, LK)}),
    "additive_alibi": Case({"additive_mask": _alibi, "is_causal": "lower_right", "polarity": 0.9}),
    "additive_causal": Case({"additive_mask": _additive(1, H, LQ, LK), "is_causal": "lower_right"}),
    "additive_window": Case({"additive_mask": _additive(B, H, LK, LK), "window": 3}, queries=LK),
    "additive_scale": Case({"additive_mask": _additive(LQ, LK), "scale": 0.3}),
    "additive_softmax": Case({"additive_mask": _additive(B, H, LQ, LK), "polarity": 0.0}),
    "additive_polarities": Case(
        {"additive_mask": _additive(B, H, LQ, LK), "polarity": torch.tensor([1.0, 0.5, 0.1, 1e-3, 0.9, 0.2], dtype=torch.float64)}
    ),
    "additive_packed": Case(
        {"additive_mask": _additive(1, H, LK, LK), "cu_seqlens": torch.tensor([0, 5, 5, 11]), "is_causal": True}, **_packed
    ),
    "additive_constant": Case({"additive_mask": torch.full((B, 1, LQ, LK), -100.0, dtype=torch.float64)}),
    "additive_nothing_kept": Case({"additive_mask": torch.full((1, 1, 1, LK), -9984.0, dtype=torch.float64)}),
    "additive_tiny_scores": Case({"additive_mask": _additive(B, H, LQ, LK)}, std=1e-2),
    "additive_large_scores": Case({"additive_mask": _additive(B, H, LQ, LK), "polarity": 0.3}, std=20.0),
    "additive_long": Case({"additive_mask": _additive(1, 1, 71, 71), "is_causal": True}, queries=71, keys=71, batch=1),
    "additive_softcap": Case({"additive_mask": _additive(B, H, LQ, LK), "softcap": 1.5}, std=3.0),
    "additive_and_bias": Case({"additive_mask": _additive(B, H, LQ, LK), "bias": _bias, "polarity": 0.5}),
    "additive_bias_and_keep": Case({"additive_mask": _alibi, "bias": _bias[:1, :, :1], "keep": _mask(B, 1, LQ, LK, empty=(0, 0, 2))}),
    "half_polarity": Case({"polarity": 0.5}),
    "small_polarity": Case({"polarity": 1e-4, "is_causal": True}),
    "softmax": Case({"polarity": 0.0}),
    "softmax_masked": Case({"polarity": 0.0, "keep": _mask(B, 1, LQ, LK, empty=(0, 0, 3))}),
    "polarity_per_head": Case({"polarity": torch.tensor([1.0, 0.5, 0.1, 1e-3, 0.9, 0.2], dtype=torch.float64)}),
    "polarity_above_1": Case({"polarity": torch.tensor([1.7, 5.0, 0.5, 30.0, 1.0, 1.2], dtype=torch.float64)}),  # of a score bias below 0
    "polarity_scalar": Case({"polarity": torch.tensor(0.3, dtype=torch.float64)}),
    "polarity_some_heads": Case({"polarity": torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64).detach()}),
    "packed": Case({"cu_seqlens": torch.tensor([0, 3, 4, 11])}, **_packed),
    "packed_causal": Case({"cu_seqlens": torch.tensor([0, 5, 5, 11], dtype=torch.int32), "is_causal": True}, **_packed),
    "packed_window": Case({"cu_seqlens": torch.tensor([0, 7, 11]), "is_causal": True, "window": 2}, **_packed),
    "tiny_scores": Case(std=1e-2),
    "large_scores": Case(std=30.0),
    "large_scores_masked": Case({"keep": _mask(B, 1, LQ, LK, empty=(1, 0, 0)), "polarity": 0.3}, std=30.0),
    "large_scores_softmax": Case({"polarity": 0.0, "is_causal": True}, std=30.0),
    "long": Case({"is_causal": True}, queries=307, keys=307, batch=1),
}

# The same calls with a balanced shift, to which a constant of each row is nothing.
BALANCED = {
    f"balanced_{name}": replace(case, arguments={**case.arguments, "shift": "balanced"})
    for name, case in CASES.items()
    if name != "bias_per_head"
}


def visible(inputs, arguments):
    """The boolean mask of a call, `[batch, heads, queries, keys]`, from the definition of each argument."""
    batch, heads, queries, keys = *inputs[0].shape[:3], inputs[1].shape[2]
    i, j = torch.arange(queries)[:, None], torch.arange(keys)[None]
    causal = arguments.get("is_causal", False)
    if causal == "lower_right":
        i = i + keys - queries
    seen = torch.ones(batch, heads, queries, keys, dtype=torch.bool)
    if causal:
        seen &= j <= i
    if arguments.get("window"):
        seen &= (i - j).abs() < arguments["window"]
    if arguments.get("keep") is not None:
        seen &= arguments["keep"]
    if arguments.get("additive_mask") is not None:
        seen &= arguments["additive_mask"].detach() > -9000
    if arguments.get("cu_seqlens") is not None:
        bounds = arguments["cu_seqlens"].tolist()
        segment = torch.tensor([sum(bound <= position for bound in bounds) for position in range(keys)])
        seen &= segment[:, None] == segment[None]
    return seen


def _added(arguments, seen):
    """The additive mask, 0 where a key is hidden. A row's constant changes nothing, so float64 keeps its digits by leaving it out."""
    if arguments.get("additive_mask") is None:
        return 0.0
    added = torch.where(seen, arguments["additive_mask"], 0.0)
    if added.dtype == torch.float64:
        added = added - added.detach().masked_fill(~seen, -math.inf).amax(-1, keepdim=True).clamp(min=-9000.0)
    return torch.where(seen, added, 0.0)


def oracle(inputs, arguments, product=torch.matmul):
    """Output and signed weights in the dtype of the inputs: softmax over [a + m, log p - a + m], second half counted negative.

    With a balanced shift, (P - p N) / (1 + p), with P the softmax over a + m and N that over -a + m.
    """
    query, key, value = inputs[:3]
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = product(query, key.transpose(-1, -2)) * arguments.get("scale", query.shape[-1] ** -0.5)
    if arguments.get("softcap"):
        scores = arguments["softcap"] * torch.tanh(scores / arguments["softcap"])
    if arguments.get("bias") is not None:
        scores = scores + arguments["bias"]
    polarity = arguments.get("polarity", 1.0)
    shift = polarity.log().reshape(-1, 1, 1) if isinstance(polarity, torch.Tensor) else math.log(polarity) if polarity else -math.inf
    seen = visible(inputs, arguments)
    added = _added(arguments, seen)
    if arguments.get("shift") == "balanced":
        weights = _balanced(scores, added, seen, polarity)
        return product(weights, value), weights
    both = torch.cat([scores + added, shift - scores + added], dim=-1).masked_fill(~torch.cat([seen, seen], -1), -math.inf)
    empty = ~seen.any(-1, keepdim=True)
    shares = both.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0)
    weights = shares[..., : key.shape[2]] - shares[..., key.shape[2] :]
    return product(weights, value), weights


def _balanced(scores, added, seen, polarity):
    empty = ~seen.any(-1, keepdim=True)
    halves = [(half + added).masked_fill(~seen, -math.inf).masked_fill(empty, 0.0) for half in (scores, -scores)]
    positive, negative = (half.softmax(-1).masked_fill(empty, 0.0) for half in halves)
    polarity = polarity.reshape(-1, 1, 1) if isinstance(polarity, torch.Tensor) else polarity
    return (positive - polarity * negative) / (1 + polarity)


def doubled_softmax(inputs, arguments, product=torch.matmul):
    """Output of the oracle."""
    return oracle(inputs, arguments, product)[0]


def two_softmax_calls(inputs, arguments, product=torch.matmul):
    """Output by softmax attention for q and for -q, joined by their log-sum-exps, in the dtype of the inputs."""
    query, key, value = inputs[:3]
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = product(query, key.transpose(-1, -2)) * arguments.get("scale", D**-0.5)
    if arguments.get("bias") is not None:
        scores = scores + arguments["bias"]
    polarity = arguments.get("polarity", 1.0)
    shift = polarity.log().reshape(-1, 1) if isinstance(polarity, torch.Tensor) else math.log(polarity) if polarity else -math.inf
    seen = visible(inputs, arguments)
    empty = ~seen.any(-1, keepdim=True)
    added = _added(arguments, seen)
    halves = [half.masked_fill(~seen, -math.inf).masked_fill(empty, 0.0) for half in (scores + added, added - scores)]
    plus, minus = halves[0].logsumexp(-1), halves[1].logsumexp(-1) + shift
    # By their log-sum-exps, as fused kernels recompute weights: a rounded one costs the digits that it has before the point.
    sums = [half.logsumexp(-1, keepdim=True) for half in halves]
    outputs = [product((half - one).exp(), value) for half, one in zip(halves, sums, strict=True)]
    if arguments.get("shift") == "balanced":
        polarity = polarity.reshape(-1, 1, 1) if isinstance(polarity, torch.Tensor) else polarity
        return ((outputs[0] - polarity * outputs[1]) / (1 + polarity)).masked_fill(empty, 0.0)
    joint = torch.sigmoid(plus - minus)[..., None] * outputs[0] - torch.sigmoid(minus - plus)[..., None] * outputs[1]
    return joint.masked_fill(empty, 0.0)


def doubled_keys(inputs, arguments, product=torch.matmul):
    """Output by softmax attention over keys [K, -K] and values [V, -V], in the dtype of the inputs."""
    query, key, value = inputs[:3]
    groups = query.shape[1] // key.shape[1]
    key, value = (torch.cat([half, -half], 2).repeat_interleave(groups, 1) for half in (key, value))
    bias = arguments.get("bias", torch.zeros((), dtype=query.dtype)).expand(*query.shape[:3], key.shape[2] // 2)
    polarity = arguments.get("polarity", 1.0)
    shift = polarity.log().reshape(-1, 1, 1) if isinstance(polarity, torch.Tensor) else math.log(polarity) if polarity else -math.inf
    seen = visible(inputs, arguments)
    empty = ~seen.any(-1, keepdim=True)
    added = _added(arguments, seen)
    mask = torch.cat([bias + added, shift - bias + added], -1).masked_fill(~torch.cat([seen, seen], -1), -math.inf).masked_fill(empty, 0.0)
    scores = product(query, key.transpose(-1, -2)) * arguments.get("scale", D**-0.5) + mask
    return product(scores.softmax(-1), value).masked_fill(empty, 0.0)


EAGER = (doubled_softmax, two_softmax_calls, doubled_keys)
"""Eager attention by every composition."""


def with_gradients(output, inputs):
    """The output and its gradients for a fixed, uneven upstream gradient."""
    upstream = torch.linspace(-1.0, 1.5, output.numel(), dtype=torch.float64).cos().view_as(output).to(output)
    gradients = torch.autograd.grad(output, inputs, upstream, allow_unused=True) if inputs else ()
    return [output.detach(), *(torch.zeros_like(x) if g is None else g for g, x in zip(gradients, inputs, strict=True))]


class OrderedProduct(torch.autograd.Function):
    """a b for `[.., m, k]` and `[.., k, n]`, and its gradients: sums in float32 at least, in an order of choice, rounded to the dtype once.

    Products and sums of numbers, one at a time, have the same bits on every processor.
    """

    @staticmethod
    def forward(ctx, a, b, order):
        ctx.save_for_backward(a, b)
        ctx.order = order
        return _summed(a, b, order)

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        return _summed(grad, b.transpose(-1, -2), ctx.order), _summed(a.transpose(-1, -2), grad, ctx.order), None


def _summed(a, b, order):
    exact = torch.promote_types(a.dtype, torch.float32)
    columns, rows = a.to(exact).unbind(-1), b.to(exact).unbind(-2)
    total = torch.zeros(*a.shape[:-1], b.shape[-1], dtype=exact)
    for place in order_of_summation(len(rows), order):
        total = total + columns[place][..., None] * rows[place][..., None, :]
    return total.to(a.dtype)


@functools.cache
def order_of_summation(count, number):
    """Of the orders of so many summands, all those that matter if they are few, else random ones."""
    if count > 5:
        return torch.randperm(count, generator=torch.Generator().manual_seed(number)).tolist()
    orders = [order for order in itertools.permutations(range(count)) if order[:2] == tuple(sorted(order[:2]))]
    return orders[number % len(orders)]


def error(found, expected):
    """Relative error in the Frobenius norm, against a float64 value."""
    expected = expected.double()
    return ((found.double() - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def rounding_error(inputs, arguments, expected, attentions=(doubled_softmax,), orders=ORDERS):
    """How wrong eager attention may be in the inputs' dtype, as `error` says it: each number as wrong as in the worst of the runs.

    For each of the expected results, output and gradients in float64. It is not finite where an eager run's result is not.
    """
    worst = worst_rounding(inputs, arguments, expected, attentions, orders)
    return [(one.norm() / true.norm().clamp(min=1e-30)).item() for one, true in zip(worst, expected, strict=True)]


def worst_rounding(inputs, arguments, expected, attentions=(doubled_softmax,), orders=ORDERS):
    """The largest deviation from each expected number in eager runs, by every attention in so many orders."""
    worst = [torch.zeros_like(true) for true in expected]
    for attention, order in itertools.product(attentions, range(orders)):
        output = attention(inputs, arguments, functools.partial(_product, order=order))
        found = with_gradients(output, inputs[: len(expected) - 1])
        worst = [torch.maximum(one, (rough.double() - true).abs()) for one, rough, true in zip(worst, found, expected, strict=True)]
    return worst


def _product(a, b, order):
    return OrderedProduct.apply(a, b, order)


def allowed(rounding, dtype):
    """The largest error of an implementation whose eager runs have this `rounding_error`: no more, but for one and a half roundings."""
    return max(rounding, 1.5 * torch.finfo(dtype).eps)


def widened(inputs, arguments):
    """A call in float64, with the values that it has in its own dtype."""
    inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    rest = iter(inputs[3:])
    floating = {name for name, item in arguments.items() if isinstance(item, torch.Tensor) and item.is_floating_point()}
    return inputs, {name: next(rest) if name in floating else item for name, item in arguments.items()}


@functools.cache
def measured(name, dtype, attentions=(doubled_softmax,)):
    """Exact output and gradients of a case whose inputs are rounded to a dtype, and their `rounding_error`s."""
    inputs, arguments = (CASES | BALANCED)[name].tensors(dtype)
    exact_inputs, exact_arguments = widened(inputs, arguments)
    exact = with_gradients(oracle(exact_inputs, exact_arguments)[0], exact_inputs)
    # Rounding sums to half precision hides the order, and many rows average it.
    orders = 2 if dtype != torch.float32 else 8 if name == "long" else ORDERS
    return exact, rounding_error(inputs, arguments, exact, attentions, orders)
