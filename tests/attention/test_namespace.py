"""What is global to a process carries the name of the code that put it there."""

import torch

from hf_tanhmax import registration
from hf_tanhmax.attention import ops
from hf_tanhmax.attention.namespace import NAMESPACE


def test_the_names_of_the_package():
    assert NAMESPACE == "hf_tanhmax"
    assert {registration.FUSED, registration.EAGER, registration.PAGED} == {"tanhmax", "tanhmax_eager", "tanhmax_paged"}
    for name in ("blocked_attention", "blocked_attention_backward", "fused_attention", "fused_attention_backward"):
        assert getattr(ops, name)._opoverload is getattr(torch.ops.hf_tanhmax, name).default
