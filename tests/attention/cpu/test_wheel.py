"""A wheel is pure, unless it is asked to bring the C++ operator; what such a wheel brings is used where it fits, and else built anew."""

import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import hf_tanhmax
from hf_tanhmax.attention.cpu import build as native
from hf_tanhmax.attention.cpu.build import NATIVE_SWITCH, why_no_library
from hf_tanhmax.attention.cpu.compiler import CODE_FLAGS, compile_operator, source_digest

pytest.importorskip("hatchling", reason="needs hatchling")
from hf_tanhmax.attention.cpu.wheel import PREBUILT_SWITCH, PROCESSORS

CHECKOUT = Path(hf_tanhmax.__file__).parents[1]
compiler = pytest.mark.skipif(
    not (shutil.which("c++") and platform.machine() in PROCESSORS), reason="needs a C++ compiler, and a machine that wheels are made for"
)
TINY = 'extern "C" int hf_tanhmax_try() { return 1; }'


def wheel(folder, **settings):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=CHECKOUT, env=os.environ | settings, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0 or "Error" not in done.stderr, done.stderr
    return next(folder.glob("*.whl"), None), done.stderr


@pytest.mark.slow
def test_a_wheel_is_pure_by_default(tmp_path):
    path, _ = wheel(tmp_path, **{PREBUILT_SWITCH: "0"})
    assert path.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(path).namelist() if "prebuilt" in name or name.endswith(".so")]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


WITHOUT_A_COMPILER = """
import sys, types

package = sys.modules["hf_tanhmax"] = types.ModuleType("hf_tanhmax")
package.__path__ = [sys.argv[1]]
from hf_tanhmax.attention.cpu.build import native_library

print(native_library().hf_tanhmax_try())
"""


@pytest.mark.slow
@compiler
def test_a_wheel_brings_the_operator_if_asked_and_needs_no_compiler_then(tmp_path):
    path, _ = wheel(tmp_path, **{PREBUILT_SWITCH: "1"})
    assert path.name.endswith(f"-py3-none-linux_{platform.machine()}.whl")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    zipfile.ZipFile(path).extractall(tmp_path / "installed")
    brought = tmp_path / "installed" / "hf_tanhmax" / "attention" / "cpu" / "prebuilt"
    names = [f"{platform.machine()}-{name}.so" for name in PROCESSORS[platform.machine()]]
    assert sorted(each.name for each in brought.iterdir()) == sorted([*names, "libraries.json"])
    settings = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path / "cache"), NATIVE_SWITCH: "1", "CXX": "nothing"}
    command = [sys.executable, "-c", WITHOUT_A_COMPILER, str(tmp_path / "installed" / "hf_tanhmax")]
    done = subprocess.run(command, env=settings, text=True, capture_output=True, timeout=300)
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({PREBUILT_SWITCH: "riscv64"}, "HF_TANHMAX_PREBUILT=riscv64 compiles for Linux on x86_64 and aarch64, not for linux on riscv64"),
        (
            {PREBUILT_SWITCH: "aarch64", "CXX": "nothing"},
            "HF_TANHMAX_PREBUILT: the C++ operator could not be built: there is no C++ compiler",
        ),
    ],
    ids=["a machine that is not known", "no compiler"],
)
def test_what_cannot_be_compiled_makes_no_wheel(tmp_path, settings, sentence):
    path, said = wheel(tmp_path, **settings)
    assert path is None
    assert sentence in said


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-g++"), reason="needs a compiler for aarch64")
def test_another_compiler_makes_wheels_for_its_machine(tmp_path):
    path, _ = wheel(tmp_path, **{PREBUILT_SWITCH: "aarch64", "CXX": "aarch64-linux-gnu-g++"})
    assert path.name.endswith("-py3-none-linux_aarch64.whl")
    library = zipfile.ZipFile(path).read("hf_tanhmax/attention/cpu/prebuilt/aarch64-armv8-a.so")
    assert library[:4] == b"\x7fELF"
    assert library[18:20] == (183).to_bytes(2, "little")  # the machine


@pytest.fixture
def brought(tmp_path, monkeypatch):
    """An installed wheel with one library, and no library in the cache."""
    folder = tmp_path / "prebuilt"
    folder.mkdir()
    compile_operator(TINY, folder / "one.so", CODE_FLAGS, [])
    write(folder)
    monkeypatch.setattr(native, "PREBUILT", folder)
    monkeypatch.setattr(native, "SOURCE", TINY)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.delenv(NATIVE_SWITCH, raising=False)
    native._native_library.cache_clear()
    yield folder
    native._native_library.cache_clear()


def write(folder, **changes):
    known = {"source": source_digest(), "machine": platform.machine(), "libraries": {"one.so": []}} | changes
    (folder / "libraries.json").write_text(json.dumps(known))


@compiler
def test_one_that_fits_is_taken_without_a_word(brought, monkeypatch, caplog):
    monkeypatch.setattr(native, "compile_operator", None)
    assert why_no_library() is None
    assert isinstance(native.native_library(), ctypes.CDLL)
    assert not caplog.records


def trap(folder):
    compile_operator('extern "C" int hf_tanhmax_try() { __builtin_trap(); }', folder / "one.so", CODE_FLAGS, [])


UNFIT = {
    "torch": (None, "was tried with torch 2.11 to 2.15, and this is 9.9.1"),
    "code": (lambda folder: write(folder, source="other"), "is of other code"),
    "machine": (lambda folder: write(folder, machine="vax"), f"is for vax, and this is {platform.machine()}"),
    "processor": (lambda folder: write(folder, libraries={"one.so": ["no_processor_has_this"]}), "is for other processors"),
    "a flag that lies": (trap, "ended with SIGILL when it was tried: this processor does not do what it says it can"),
    "a file that is missing": (lambda folder: (folder / "one.so").unlink(), "No such file"),
    "a broken file": (lambda folder: (folder / "one.so").write_text("rubbish"), "file too short"),
    "a broken list": (lambda folder: (folder / "libraries.json").write_text("{"), "has no readable libraries.json"),
    "a list without a machine": (lambda folder: (folder / "libraries.json").write_text("{}"), "has no readable libraries.json"),
}


@compiler
@pytest.mark.parametrize("what", UNFIT)
def test_where_none_fits_one_line_says_why_and_it_is_built(what, brought, monkeypatch, caplog):
    spoil, reason = UNFIT[what]
    if spoil is None:
        monkeypatch.setattr(torch, "__version__", "9.9.1+cpu")
    else:
        spoil(brought)
    assert why_no_library() is None
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "building the C++ operator of TanhMax attention, once for this machine: some ten seconds; the one"
    )
    assert reason in record.getMessage()


@compiler
def test_a_slower_one_is_taken_where_the_fastest_does_not_run(brought, monkeypatch, caplog):
    compile_operator(TINY, brought / "two.so", CODE_FLAGS, [])
    write(brought, libraries={"one.so": [], "two.so": []})
    trap(brought)
    monkeypatch.setattr(native, "compile_operator", None)
    assert why_no_library() is None
    assert not caplog.records
