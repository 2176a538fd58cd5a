"""The goals are answered from counts, in numbers that can be followed by hand."""

import pytest

pytest.importorskip("triton", reason="needs triton")
import goals


def entry(kernel, weights, overlapped, serial, *, reduced=False):
    clocks = {"overlapped": overlapped, "serial": serial}
    return {"kernel": kernel, "head_dim": 64, "weights": weights, "tile": {"reduced": reduced}, "clocks": clocks}


ENTRIES = [
    entry("forward", "TanhMax", 0.125, 0.25),
    entry("forward", "TanhMax", 0.1, 0.2),
    entry("forward", "softmax", 0.1, 0.125),
    entry("balanced", "balanced", 0.2, 0.4),
    *(entry(kernel, weights, 0.25, 0.5) for kernel in ("query", "key_value") for weights in ("TanhMax", "balanced")),
    *(entry(kernel, "softmax", 0.25, 0.25) for kernel in ("query", "key_value")),
    entry("key_value", "TanhMax", 0.01, 0.01, reduced=True),  # it is no part of a deterministic pass
]


def test_answers_follow_from_the_cycles():
    default, best = ([tuple(pair) for pair in goals.answers(ENTRIES, 64, best=best)] for best in (False, True))
    stock = 0.0625 * 989 / 412
    named = dict(zip(goals.goals(), default, strict=True))
    assert named["forward time / softmax twin"] == pytest.approx((1.25, 2.0))
    assert named["forward TFLOP/s"] == pytest.approx((989 / 2, 989 / 4))
    assert named["backward time / softmax twin"] == pytest.approx((1.0, 2.0))
    assert named["backward TFLOP/s"] == pytest.approx((989 * 0.15625 / 0.5, 989 * 0.15625))
    assert named["forward / two calls on cuDNN"] == pytest.approx((0.125 / stock / 2, 0.25 / stock / 2))
    assert named["balanced forward / two calls on cuDNN"] == pytest.approx((0.2 / stock / 2, 0.4 / stock / 2))
    assert best[0] == pytest.approx((1.0, 1.6))
    assert best[2] == default[2]


def test_the_table_says_that_nothing_was_timed():
    assert goals.rendered().startswith("**Predicted, not timed.**")
