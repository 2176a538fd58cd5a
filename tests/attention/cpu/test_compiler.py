"""The code of the C++ operator, and the compilers and processors that it is compiled for."""

import os
import platform
import shutil
import subprocess
import sys

import pytest

from hf_tanhmax.attention.cpu import compiler as cxx
from hf_tanhmax.attention.cpu.build import NATIVE_SWITCH
from hf_tanhmax.attention.cpu.compiler import PARTS, SOURCE

BY_CLANG = """
import torch
from hf_tanhmax import tanhmax_attention, why_not

torch.set_num_threads(2)
query = torch.randn(2, 3, 70, 8)
assert why_not(query, query, query, implementation="native") is None
for many in (query, query.repeat(1, 1, 40, 1)):
    found = tanhmax_attention(query, many, many, implementation="cpu")
    exact = tanhmax_attention(query.double(), many.double(), many.double(), implementation="reference")
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("clang++"), reason="needs clang")
def test_clang_builds_it_too(tmp_path):
    """With the threads that it has of its own."""
    settings = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path), NATIVE_SWITCH: "1", "CXX": "clang++"}
    done = subprocess.run([sys.executable, "-c", BY_CLANG], env=settings, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-g++"), reason="needs a compiler for aarch64")
def test_it_compiles_for_aarch64(tmp_path):
    (tmp_path / "attention.cpp").write_text(SOURCE)
    command = ["aarch64-linux-gnu-g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fopenmp", "-fsyntax-only", "attention.cpp"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr


# Row by row and column by column, as the library of torch would have it.
PRODUCTS = """
extern "C" void sgemm_(const char* ta, const char* tb, const int64_t* m, const int64_t* n, const int64_t* k, const float* alpha,
                       const float* a, const int64_t* as, const float* b, const int64_t* bs, const float* beta, float* c,
                       const int64_t* cs) {
  for (int64_t i = 0; i < *m; ++i)
    for (int64_t j = 0; j < *n; ++j) {
      float sum = 0.0f;
      for (int64_t l = 0; l < *k; ++l)
        sum += (*ta == 'T' ? a[l + i * *as] : a[i + l * *as]) * (*tb == 'T' ? b[j + l * *bs] : b[l + j * *bs]);
      float& to = c[i + j * *cs];
      to = *alpha * sum + (*beta == 0.0f ? 0.0f : *beta * to);
    }
}

int main() { return !hf_tanhmax_try(); }
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64-static")), reason="needs a compiler for aarch64, and qemu"
)
def test_it_computes_on_aarch64(tmp_path):
    (tmp_path / "attention.cpp").write_text(SOURCE + PRODUCTS)
    command = ["aarch64-linux-gnu-g++", *cxx.CODE_FLAGS, "-march=armv8-a", "-static", "attention.cpp", "-o", "tried"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    assert subprocess.run(["qemu-aarch64-static", "./tried"], cwd=tmp_path, timeout=300).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which("g++"), reason="needs gcc on x86-64")
@pytest.mark.parametrize("processor", ["x86-64-v3", "x86-64-v4"])
def test_vectors_are_those_of_the_processor(processor, tmp_path):
    """Larger ones gcc takes apart number by number, and says so."""
    (tmp_path / "attention.cpp").write_text(SOURCE)
    flags = [*cxx.CODE_FLAGS, *cxx.WIDE_FLAGS, f"-march={processor}", "-O1", "-Wvector-operation-performance"]
    done = subprocess.run(["g++", *flags, "-c", "attention.cpp"], cwd=tmp_path, check=True, timeout=300, capture_output=True, text=True)
    assert "vector" not in done.stderr


def test_the_code_stays_small():
    assert all(len(part.splitlines()) < 400 for part in PARTS)
    assert max(map(len, SOURCE.splitlines())) <= 140
