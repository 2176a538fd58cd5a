"""The backward operator on some of a row's keys: given L and D over all keys, the gradients of the parts are those of the whole."""

import pytest
import torch

from hf_tanhmax.attention.call import OperatorInputs
from hf_tanhmax.attention.ops import fused_attention, fused_attention_backward

pytestmark = pytest.mark.usefixtures("small_tiles")
KEYS, SPLIT = 23, 9
WANTS = (True, False, False)
# L is rounded, so the error grows with the scores: by as many roundings as L has units.
ALLOWED = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 2e-2}
LARGE = 60.0


def inputs_of(dtype, *, kernels=False, softcap=None, polarity=True, largest=1.0, queries=7):
    query, key, value = (torch.randn(2, heads, length, 5, dtype=dtype) for heads, length in ((4, queries), (2, KEYS), (2, KEYS)))
    log_polarity = torch.tensor([0.0, -0.5, -2.0, 0.3], dtype=torch.promote_types(dtype, torch.float32)) if polarity else None
    keep = torch.ones(2, 1, 1, KEYS, dtype=torch.bool)
    keep[0, ..., :SPLIT] = False  # rows that see nothing of the first part
    keep[1, ..., 3] = False
    tensors = (query * largest, key, value, log_polarity, None, None, keep, None, None)
    return OperatorInputs(*tensors, False, 0, None, 0.5, softcap, 0.0, signed=True, balanced=False, kernels=kernels)


def part_of(inputs, keys):
    return inputs._replace(key=inputs.key[:, :, keys], value=inputs.value[:, :, keys], keep=inputs.keep[..., keys])


def by_parts(inputs, grad_output):
    parts = [part_of(inputs, keys) for keys in (slice(0, SPLIT), slice(SPLIT, KEYS))]
    found = [fused_attention(*part) for part in parts]
    lses = [lse.masked_fill(lse == float("inf"), -float("inf")) for _, lse, _ in found]
    lse = torch.logaddexp(*lses)
    output = sum(out * torch.exp(own - lse)[..., None] for (out, _, _), own in zip(found, lses, strict=True))
    delta = (output * grad_output).sum(-1).to(lse.dtype)
    whole = found[0][2].dim() == 4  # statistics of kernels in full float32
    statistics = torch.stack([lse, torch.ones_like(lse)]) if whole else found[0][2]
    given = (grad_output, output.to(inputs.query.dtype), lse, statistics, delta)
    gradients = [fused_attention_backward(*given, *WANTS, *part) for part in parts]
    (q1, k1, v1, p1, *_), (q2, k2, v2, p2, *_) = gradients
    return output, q1 + q2, torch.cat([k1, k2], 2), torch.cat([v1, v2], 2), p1 + p2


def wholly(inputs, grad_output):
    output, lse, statistics = fused_attention(*inputs)
    results = (output, lse, statistics, None) if inputs.kernels else (None, None, None, None)
    return output, *fused_attention_backward(grad_output, *results, *WANTS, *inputs)[:4]


CASES = {
    "in C++": {"dtype": torch.float32},
    "in C++, large scores": {"dtype": torch.float32, "largest": LARGE},
    "in C++, one query": {"dtype": torch.float32, "queries": 1},
    "in torch's operators": {"dtype": torch.float32, "softcap": 2.0},
    "in float64": {"dtype": torch.float64},
    "in float64, large scores": {"dtype": torch.float64, "largest": LARGE},
    "kernels": {"dtype": torch.float32, "kernels": True},
    "kernels, bfloat16": {"dtype": torch.bfloat16, "kernels": True},
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_parts_are_those_of_the_whole(case):
    made = CASES[case]
    inputs = inputs_of(**made)
    grad_output = torch.randn_like(inputs.query)
    names = ("output", "query", "key", "value", "log polarity")
    for name, found, wanted in zip(names, by_parts(inputs, grad_output), wholly(inputs, grad_output), strict=True):
        allowed = ALLOWED[made["dtype"]] * max(1.0, float(wanted.abs().max())) * made.get("largest", 1.0)
        assert float((found - wanted).abs().max()) <= allowed, name


def test_a_balanced_shift_has_no_joint_rows_on_the_cpu():
    inputs = inputs_of(torch.float32)._replace(balanced=True)
    rows = torch.zeros(inputs.query.shape[:3])
    with pytest.raises(ValueError, match="with a balanced shift a row has two L"):
        fused_attention_backward(torch.zeros_like(inputs.query), None, rows, None, rows, *WANTS, *inputs)
