"""The reference returns the weights it used, and agrees with torch's softmax attention at polarity 0."""

import torch
from cases import CASES, D, oracle

from hf_tanhmax.attention.mask import AttentionMask
from hf_tanhmax.attention.reference import reference_attention


def test_weights_times_values_is_the_output():
    case = CASES["plain"]
    (query, key, value), _ = case.tensors()
    output, weights = reference_attention(query, key, value, AttentionMask(case.queries, case.keys), scale=D**-0.5)
    torch.testing.assert_close(weights @ value.repeat_interleave(2, 1), output)
    torch.testing.assert_close(weights, oracle((query, key, value), {})[1])


def test_dropped_weights_are_returned_as_they_met_the_values():
    case = CASES["multi_head"]
    (query, key, value), _ = case.tensors()
    output, weights = reference_attention(query, key, value, AttentionMask(case.queries, case.keys), scale=1.0, dropout_p=0.5)
    assert 0.3 < (weights == 0).double().mean() < 0.7
    torch.testing.assert_close(weights @ value, output)


def test_polarity_zero_is_torch_softmax_attention():
    query, key, value = torch.randn(3, 2, 3, 13, 8, dtype=torch.float64).unbind()
    output, weights = reference_attention(query, key, value, AttentionMask(13, 13, causal=True), scale=8**-0.5, polarity=0.0)
    torch.testing.assert_close(output, torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True))
    assert (weights >= 0).all()


def test_half_precision_is_computed_in_float32():
    query, key, value = torch.randn(3, 2, 3, 13, 8).unbind()
    mask = AttentionMask(13, 13)
    exact, _ = reference_attention(query.half(), key.half(), value.half(), mask, scale=1.0)
    wide, _ = reference_attention(query.half().float(), key.half().float(), value.half().float(), mask, scale=1.0)
    assert exact.dtype == torch.float16
    assert torch.equal(exact, wide.half())
