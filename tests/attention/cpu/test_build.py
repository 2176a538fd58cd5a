"""The library of the C++ operator: its code, when it is built, where it is kept, and what is said if it cannot be."""

import ctypes
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

import hf_tanhmax
from hf_tanhmax import tanhmax_attention, why_not
from hf_tanhmax.attention.cpu import build as native
from hf_tanhmax.attention.cpu.build import NATIVE_SWITCH, PARTS, SOURCE, native_library, why_no_library
from hf_tanhmax.attention.cpu.operator import NativeCall
from hf_tanhmax.doctor import environment

compiler = pytest.mark.skipif(not (shutil.which("c++") and shutil.which("ninja")), reason="needs a C++ compiler and ninja")
TENSORS = torch.linspace(-1.0, 1.0, 3 * 2 * 5 * 4).view(3, 1, 2, 5, 4).unbind()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """No library is built yet, and none is known to this process."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.delenv(NATIVE_SWITCH, raising=False)
    for function in (native._native_library, native._warn_of):
        function.cache_clear()
    yield tmp_path
    for function in (native._native_library, native._warn_of):
        function.cache_clear()


@pytest.mark.slow
@compiler
def test_it_is_built_once_and_found_again(empty_cache, monkeypatch):
    assert isinstance(native_library(), ctypes.CDLL)
    (path,) = empty_cache.rglob("*.so")
    assert path.parent.parent == empty_cache
    assert list(path.parent.iterdir()) == [path]
    native._native_library.cache_clear()
    monkeypatch.setattr(cpp_extension, "load_inline", None)
    assert why_no_library() is None


@compiler
def test_it_is_kept_by_source_flags_torch_compiler_and_cpu(empty_cache, monkeypatch):
    kinds = {native._kind_of_library()}
    monkeypatch.setattr(native, "SOURCE", native.SOURCE + "// another")
    kinds.add(native._kind_of_library())
    monkeypatch.setattr(native, "NATIVE_FLAGS", ("-O2",))
    kinds.add(native._kind_of_library())
    monkeypatch.setattr(torch, "__version__", "99.0")
    kinds.add(native._kind_of_library())
    monkeypatch.setenv("CXX", "another")
    kinds.add(native._kind_of_library())
    monkeypatch.setattr(native.Path, "read_text", lambda *_, **__: "flags : another")
    kinds.add(native._kind_of_library())
    assert len(kinds) == 6


def spoil(kind, monkeypatch, folder):
    if kind == "no compiler":
        monkeypatch.setenv("CXX", str(folder / "nothing"))
    elif kind == "bad code":
        monkeypatch.setattr(native, "SOURCE", "int function( { return 1; }")
    elif kind == "missing symbol":
        monkeypatch.setattr(native, "SOURCE", 'extern "C" void hf_tanhmax_nowhere_(); extern "C" void call() { hf_tanhmax_nowhere_(); }')
    elif kind == "no ninja":
        monkeypatch.setattr(cpp_extension, "is_ninja_available", lambda: False)
    elif kind == "no setuptools":
        monkeypatch.setitem(sys.modules, "torch.utils.cpp_extension", None)
    elif kind == "no folder":
        (folder / "file").write_text("")
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder / "file" / "below"))
    elif kind == "big-endian":
        monkeypatch.setattr(sys, "byteorder", "big")


SPOILT = {
    "no compiler": "nothing",
    "bad code": "error:",
    "missing symbol": "undefined symbol: hf_tanhmax_nowhere_",
    "no ninja": "Ninja is required",
    "no setuptools": "cpp_extension",
    "no folder": "Not a directory",
    "big-endian": "little-endian",
}


@compiler
@pytest.mark.parametrize("kind", SPOILT)
def test_where_it_cannot_be_built_one_line_says_so_once(kind, empty_cache, monkeypatch, caplog, capfd):
    spoil(kind, monkeypatch, empty_cache)
    with caplog.at_level(logging.WARNING, "hf_tanhmax"):
        first, again = (tanhmax_attention(*TENSORS, implementation="cpu") for _ in range(2))
    (record,) = caplog.records
    assert "does without its C++ operator, which could not be built: " in record.getMessage()
    assert SPOILT[kind] in record.getMessage()
    assert "\n" not in record.getMessage()
    assert capfd.readouterr() == ("", "")
    assert torch.equal(first, again)
    torch.testing.assert_close(first, tanhmax_attention(*TENSORS, implementation="reference"))
    reason = why_not(*TENSORS, implementation="native")
    assert reason.startswith("implementation='native' could not be built: ")
    assert not list(empty_cache.rglob("*.so"))


@compiler
def test_the_switch(empty_cache, monkeypatch, caplog):
    monkeypatch.setenv(NATIVE_SWITCH, "0")
    assert why_no_library() == "is switched off by HF_TANHMAX_NATIVE=0"
    assert environment._native(torch.device("cpu")).sentence.endswith("implementation='native' is switched off by HF_TANHMAX_NATIVE=0")
    assert not list(empty_cache.iterdir())
    monkeypatch.setenv(NATIVE_SWITCH, "yes")
    with pytest.raises(ValueError, match="HF_TANHMAX_NATIVE is 'yes'; set it to 0"):
        tanhmax_attention(*TENSORS, implementation="cpu")
    monkeypatch.setenv(NATIVE_SWITCH, "1")
    spoil("no ninja", monkeypatch, empty_cache)
    with pytest.raises(RuntimeError, match="HF_TANHMAX_NATIVE=1 asks for the C\\+\\+ operator, but it could not be built: Ninja"):
        tanhmax_attention(*TENSORS, implementation="cpu")
    assert environment._native(torch.device("cpu")).level == "error"
    assert not caplog.records


# The module without its package, whose other imports take long.
ALONE = """
import sys, types

package = sys.modules["hf_tanhmax"] = types.ModuleType("hf_tanhmax")
package.__path__ = [sys.argv[1]]
from hf_tanhmax.attention.cpu.build import native_library

print(native_library()._name)
"""


@pytest.mark.slow
@compiler
def test_processes_may_build_it_at_the_same_time(tmp_path):
    """And find it, if they come later; nothing is left behind and nothing is printed."""
    settings = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path), NATIVE_SWITCH: "1"}
    command = [sys.executable, "-c", ALONE, str(Path(hf_tanhmax.__file__).parent)]
    running = [subprocess.Popen(command, env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    results = [process.communicate(timeout=300) for process in running]
    (path,) = tmp_path.rglob("*.so")
    assert results == [(f"{path}\n", "")] * 2
    assert list(path.parent.iterdir()) == [path]


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
@pytest.mark.skipif(not (shutil.which("clang++") and shutil.which("ninja")), reason="needs clang and ninja")
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


def test_the_code_stays_small():
    assert all(len(part.splitlines()) < 400 for part in PARTS)
    assert max(map(len, SOURCE.splitlines())) <= 140


def test_the_structure_has_the_same_fields_on_both_sides():
    """By name, order and kind; a field too many or two in another order would be read as something else."""
    body = re.sub(r"//.*", "", re.search(r"struct Call \{(.*?)\n\};", SOURCE, re.DOTALL)[1])
    fields = []
    for declaration in filter(str.strip, body.split(";")):
        kind = re.match(r"\s*(?:const )?(\w+)", declaration)[1]
        for name in re.sub(r"^\s*(?:const )?\w+", "", declaration).split(","):
            pointer, bare, count = re.fullmatch(r"\s*(\*?)(\w+)(?:\[(\d)\])?\s*", name).groups()
            fields.append((bare, "pointer" if pointer else kind if count is None else f"{kind}[{count}]"))
    names = {"c_void_p": "pointer", "c_long": "int64_t", "c_double": "double"}
    names |= {f"c_long_Array_{count}": f"int64_t[{count}]" for count in (2, 3, 4)}
    assert fields == [(name, names[kind.__name__]) for name, kind in NativeCall._fields_]
