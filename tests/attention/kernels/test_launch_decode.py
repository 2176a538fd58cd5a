"""Between tensors and the decoding kernels: ranges of masks, what is compiled, how many programs there are."""

import json
import os
import subprocess
import sys

import pytest
import torch

launch_decode = pytest.importorskip("hf_tanhmax.attention.kernels.launch_decode", reason="needs triton")
from hf_tanhmax.attention.kernels.launch import FusedProblem
from hf_tanhmax.attention.mask import AttentionMask

GPU = "cuda" if torch.cuda.is_available() else "cpu"


def problem(queries, keys, keep=None):
    tensors = [torch.randn(2, heads, length, 8, device=GPU) for heads, length in ((4, queries), (2, keys), (2, keys))]
    return FusedProblem(*tensors, None, True, AttentionMask(queries, keys, keep=keep), None, 1.0, None, 0.0, None, True)


def test_ranges_of_a_long_mask():
    """More chunks than are read at a time, holes, and a row without a key."""
    keys = 2 * launch_decode.SCANNED_KEYS + 5
    keep = torch.zeros(2, 1, 2, keys, dtype=torch.bool)
    keep[0, 0, 1, [7, launch_decode.SCANNED_KEYS, keys - 1]] = True
    found = launch_decode._ranges(problem(2, keys, keep.to(GPU))).cpu()
    scan = launch_decode.SCANNED_KEYS
    assert found[0].tolist() == [[7, 8], [scan, scan + 1], [keys - 1, keys]]
    assert (found[1, :, 1] == 0).all()


def test_a_mask_of_one_key_for_all_needs_no_ranges():
    assert launch_decode._ranges(problem(1, 9, torch.ones(2, 1, 1, 1, dtype=torch.bool, device=GPU))) is None
    assert launch_decode._ranges(problem(1, 9)) is None


def test_results_lie_as_transformers_wants_them_next():
    output, lse = launch_decode.decode_outputs(torch.empty(2, 4, 3, 16), torch.empty(2, 2, 7, 8), balanced=False)
    assert output.shape == (2, 4, 3, 8)
    assert output.transpose(1, 2).is_contiguous()
    assert lse.shape == (2, 4, 3)
    assert lse.dtype == torch.float32


@pytest.mark.slow
def test_every_run_time_integer_is_left_unspecialised():
    """Triton compiles anew for integers that are 1 or divisible by 16, unless told not to."""
    code = """
import json
from hf_tanhmax.attention.kernels import decode
print(json.dumps([
    (name, parameter.name)
    for name in ("decode", "combine", "range") for parameter in getattr(decode, f"{name}_kernel").params
    if not parameter.is_constexpr and not parameter.name.isupper() and parameter.name not in ("scale", "cap")
    and not parameter.do_not_specialize
]))
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(run.stdout) == []
