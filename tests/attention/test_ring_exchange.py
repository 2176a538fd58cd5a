"""What the ranks of a ring tell each other of their calls; `test_ring` has the ranks."""

import pytest
import torch

from hf_tanhmax.attention.ring import ring_attention
from hf_tanhmax.attention.ring_exchange import NOTHING, Ring, _code, _meaning, check_agreement


def test_there_must_be_a_process_group():
    tensors = [torch.randn(1, 2, 4, 5) for _ in range(3)]
    with pytest.raises(RuntimeError, match=r"torch\.distributed is not initialized; launch with torchrun and call"):
        ring_attention(*tensors)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("dtype", torch.bfloat16, "torch.bfloat16"),
        ("dtype", torch.int32, "of another kind"),
        ("scale", 0.125, "0.125"),
        ("scale", -1.5, "-1.5"),
        ("polarity", None, "in a tensor"),
        ("window", None, "None"),
        ("window", 7, "7"),
        ("is_causal", True, "1"),
    ],
)
def test_a_value_travels_as_an_integer(name, value, said):
    code = _code(value)
    assert -(1 << 63) <= code < 1 << 63
    assert (code == NOTHING) == (value is None)
    assert _meaning(name, code) == said


def test_a_ring_of_one_agrees_with_itself():
    assert check_agreement(Ring(None, 0, 1), None, 5, torch.device("cpu")) == 5
