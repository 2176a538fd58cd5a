"""Triton's interpreter gives what a GPU does, with nothing else done: in a process of its own, where no fixture helps."""

import os
import subprocess
import sys
import threading

import pytest
import torch

interpreter = pytest.importorskip("hf_tanhmax.attention.kernels.interpreter", reason="needs triton")
if interpreter.IN_INTERPRETER:
    from triton.runtime.interpreter import InterpreterBuilder

CORRECTED = ("create_dot", "cast_impl", "create_descriptor_reduce")

ALONE = """
import sys
import torch
from hf_tanhmax import tanhmax_attention, why_not

dtype, call = getattr(torch, sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
query, key, value = torch.randn(1, 2, 5, 16), torch.randn(1, 1, 37, 16), torch.randn(1, 1, 37, 16)
tensors = [tensor.to(dtype) for tensor in (query, key, value, torch.randn(1, 2, 1, 37), torch.rand(2))]
wide = [tensor.double() for tensor in tensors]

def run(tensors, implementation):
    if call == "decode":
        return [tanhmax_attention(*tensors[:3], bias=tensors[3], is_causal="lower_right", implementation=implementation)]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    output = tanhmax_attention(*tensors[:3], bias=tensors[3], polarity=tensors[4], is_causal="lower_right", implementation=implementation)
    return [output, *torch.autograd.grad(output.square().sum(), tensors)]

name = "decode" if call == "decode" else "triton"
assert why_not(*tensors[:3], implementation=name) is None
found, expected = run(tensors, name), run(wide, "reference")
print(max(((one.double() - true).norm() / true.norm()).item() for one, true in zip(found, expected)))
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the kernels are not interpreted")
@pytest.mark.parametrize("call", ["forward and backward", "decode"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_right_without_help(dtype, call):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", ALONE, dtype, call], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 4 * torch.finfo(getattr(torch, dtype)).eps


def builder():
    return [getattr(InterpreterBuilder, name, None) for name in CORRECTED]


@pytest.mark.skipif(not interpreter.IN_INTERPRETER, reason="there is a GPU: nothing is corrected")
def test_corrected_while_our_kernels_run_and_no_longer():
    """Within another such context too, and if one thread leaves it while another is inside."""
    before = builder()
    with interpreter.faithful():
        inside = builder()
        assert all(one is not other for one, other in zip(inside, before, strict=True))
        with interpreter.faithful():
            pass
        assert builder() == inside
        seen = []
        other = threading.Thread(target=interpreter.faithful()(lambda: seen.append(builder())))
        other.start()
        other.join(0.2)
        assert not seen, "the other thread did not wait"
    other.join()
    assert len(seen) == 1
    assert builder() == before
