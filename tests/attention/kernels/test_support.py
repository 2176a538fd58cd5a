"""Each reason why the kernels cannot run is a sentence, and nothing else suffers from it."""

import importlib.util
import json
import os
import subprocess
import sys
import types

import pytest
import torch

from hf_tanhmax import tanhmax_attention, why_not
from hf_tanhmax.attention.api import AUTOMATIC, IMPLEMENTATIONS
from hf_tanhmax.attention.kernels import support

Q = torch.randn(1, 2, 5, 8)


@pytest.fixture
def triton(monkeypatch):
    """Set what `import triton` finds: a version, None for nothing, or an error that it raises."""

    def install(found):
        support.probe_triton.cache_clear()
        real = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: (None if found is None else True) if name == "triton" else real(name))

        def load(name):
            if isinstance(found, Exception):
                raise found
            return types.SimpleNamespace(__version__=found)

        monkeypatch.setattr(support.importlib, "import_module", load)

    yield install
    monkeypatch.undo()
    support.probe_triton.cache_clear()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, r"needs triton 3\.6 to 3\.9, which is not installed \(pip install hf-tanhmax\[triton\]\)"),
        ("3.5.1", r"needs triton 3\.6 to 3\.9, but 3\.5\.1 is installed"),
        ("3.10.0", r"needs triton 3\.6 to 3\.9, but 3\.10\.0 is installed"),
        (
            OSError("libcuda.so.1: not found"),
            r"needs triton 3\.6 to 3\.9, but the installed one cannot be imported: libcuda\.so\.1: not found",
        ),
    ],
)
def test_a_missing_or_broken_triton_is_named_and_hurts_nobody_else(triton, found, message):
    triton(found)
    assert why_not(Q, Q, Q).startswith("implementation='triton' needs triton 3.6 to 3.9")
    with pytest.raises(NotImplementedError, match=f"implementation='triton' {message}; use implementation='auto' or 'reference'"):
        tanhmax_attention(Q, Q, Q, implementation="triton")
    expected = tanhmax_attention(Q, Q, Q, implementation="reference")
    for implementation in ("auto", "cpu", "composed"):
        torch.testing.assert_close(tanhmax_attention(Q, Q, Q, implementation=implementation), expected)


@pytest.mark.parametrize("version", ["3.6.0", "3.7.1", "3.9.0+git1234"])
def test_supported_versions(triton, version):
    triton(version)
    assert support.triton_missing() is None


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ((Q.double(),) * 3, "computes float16, bfloat16 and float32, but the tensors are torch.float64"),
        ((torch.randn(1, 1, 3, 257),) * 3, "has head sizes from 1 to 256, but head_dim is 257"),
        ((Q, Q, torch.randn(1, 2, 5, 300)), "has head sizes from 1 to 256, but value_dim is 300"),
        ((Q.to("meta"),) * 3, "runs on cuda and xpu devices (and in Triton's interpreter), but the tensors are on meta"),
    ],
)
def test_what_the_kernels_do_not_take(tensors, message):
    assert why_not(*tensors) == f"implementation='triton' {message}"


def test_an_old_gpu_is_named(monkeypatch):
    monkeypatch.setattr(support, "_probe_capability", lambda index: (7, 5))
    assert support._capability(0) == "needs an NVIDIA GPU of compute capability 8.0 or newer, but this one has 7.5"
    monkeypatch.setattr(support, "_probe_capability", lambda index: (9, 0))
    assert support._capability(0) is None


def test_without_the_interpreter_the_cpu_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert "but the tensors are on cpu" in why_not(Q, Q, Q)


TOO_LATE = """
import os, sys, torch
first = sys.argv[1]
if first == "triton":
    import triton
if first in ("triton", "nothing"):
    os.environ["TRITON_INTERPRET"] = "1"
import hf_tanhmax
query = torch.randn(1, 2, 5, 8)
if first == "a call":
    hf_tanhmax.why_not(query, query, query)
if first == "the kernels":
    import hf_tanhmax.attention.kernels.launch
os.environ["TRITON_INTERPRET"] = "1"
for name in ("triton", "decode"):
    print(hf_tanhmax.why_not(query, query, query, implementation=name))
    try:
        hf_tanhmax.tanhmax_attention(query, query, query, implementation=name)
        print("computed")
    except NotImplementedError as error:
        print(error)
compiled = torch.compile(lambda query: hf_tanhmax.tanhmax_attention(query, query, query), fullgraph=True, backend="eager")
torch.testing.assert_close(compiled(query), hf_tanhmax.tanhmax_attention(query, query, query, implementation="reference"))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
@pytest.mark.parametrize("first", ["triton", "a call", "the kernels", "nothing"])
def test_an_interpreter_that_is_asked_for_too_late_is_refused(first):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-c", TOO_LATE, first]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    if first == "nothing":
        assert run.stdout.splitlines() == ["None", "computed"] * 2
        return
    for name, reason, raised in zip(("triton", "decode"), *[iter(run.stdout.splitlines())] * 2, strict=True):
        assert reason == (
            f"implementation='{name}' has an interpreter, but TRITON_INTERPRET=1 was set after Triton was imported; "
            "set it before triton or hf_tanhmax is imported"
        )
        assert raised.startswith(reason)


def test_why_not_knows_every_implementation_and_checks_arguments():
    assert why_not(Q, Q, Q, implementation="reference", return_weights=True) is None
    assert why_not(Q, Q, Q, implementation="cpu") is None
    assert why_not(Q, Q, Q, implementation="composed", softcap=1.0).endswith("has no softcap: stock softmax kernels lack it")
    for implementation in set(IMPLEMENTATIONS) - {"reference"}:
        assert "has no weights to return" in why_not(Q, Q, Q, implementation=implementation, return_weights=True)
    with pytest.raises(ValueError, match="unknown implementation 'flash'"):
        why_not(Q, Q, Q, implementation="flash")
    with pytest.raises(ValueError, match="window must be at least 1"):
        why_not(Q, Q, Q, window=0)


def test_auto_prefers_the_kernels_on_cuda_only():
    assert AUTOMATIC == {"cpu": ("cpu",), "cuda": ("triton", "composed")}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_takes_the_kernels():
    query = Q.cuda()
    assert why_not(query, query, query) is None
    fused = tanhmax_attention(query, query, query, implementation="triton")
    assert torch.equal(tanhmax_attention(query, query, query), fused)


@pytest.mark.slow
def test_neither_importing_nor_the_cpu_path_loads_a_kernel():
    code = """
import json, sys, torch
import hf_tanhmax
q = torch.randn(1, 2, 5, 8, requires_grad=True)
hf_tanhmax.tanhmax_attention(q, q, q).sum().backward()
print(json.dumps([name for name in sys.modules if name.startswith("hf_tanhmax.attention.kernels")]))
"""
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(run.stdout)) == {"hf_tanhmax.attention.kernels", "hf_tanhmax.attention.kernels.support"}


def test_the_capability_is_that_of_nvidia_gpus_alone(monkeypatch):
    monkeypatch.setattr(support, "_probe_capability", lambda index: (9, index))
    assert support.capability(torch.device("cuda", 3)) == (9, 3)
    assert support.capability(torch.device("cuda")) == (9, 0)
    assert support.capability(torch.device("cpu")) is None
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert support.capability(torch.device("cuda")) is None
