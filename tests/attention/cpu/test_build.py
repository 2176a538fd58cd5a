"""The library of the C++ operator: its code, when it is built, where it is kept, and what is said if it cannot be."""

import ctypes
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hf_tanhmax
from hf_tanhmax import tanhmax_attention, why_not
from hf_tanhmax.attention.cpu import build as native
from hf_tanhmax.attention.cpu import compiler as cxx
from hf_tanhmax.attention.cpu.build import NATIVE_SWITCH, native_library, why_no_library
from hf_tanhmax.attention.cpu.compiler import SOURCE
from hf_tanhmax.attention.cpu.operator import NativeCall
from hf_tanhmax.doctor import environment

compiler = pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
TENSORS = torch.linspace(-1.0, 1.0, 3 * 2 * 5 * 4).view(3, 1, 2, 5, 4).unbind()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """No library is built yet, and none is known to this process."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.delenv(NATIVE_SWITCH, raising=False)
    for function in (native._native_library, native._warn_of):
        function.cache_clear()
    yield tmp_path
    for function in (native._native_library, native._warn_of):
        function.cache_clear()


BUILDING = "building the C++ operator of TanhMax attention, once for this machine: some ten seconds"


@pytest.mark.slow
@compiler
def test_it_is_built_once_and_found_again(empty_cache, monkeypatch, caplog):
    assert isinstance(native_library(), ctypes.CDLL)
    (path,) = empty_cache.rglob("*.so")
    assert path.parent.parent == empty_cache / "cache"
    assert list(path.parent.iterdir()) == [path]
    assert [record.getMessage() for record in caplog.records] == [BUILDING]
    native._native_library.cache_clear()
    monkeypatch.setattr(native, "compile_operator", None)
    assert why_no_library() is None
    assert len(caplog.records) == 1


@compiler
def test_files_beside_the_program_have_no_part_in_the_trial(empty_cache, monkeypatch, tmp_path, quick_source):
    """A file of the user's with the name of one of Python's own modules; and a cache that is named from where the program runs."""
    (tmp_path / "operator.py").write_text("raise SystemExit('not for this')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "cache")
    assert why_no_library() is None


@compiler
def test_torch_may_lie_in_a_folder_that_is_named_from_here(empty_cache, monkeypatch, tmp_path, quick_source):
    """As after `pip install --target` and a relative entry of sys.path: Python by itself does not find it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", sys._base_executable)
    monkeypatch.setattr(sys, "path", [os.path.relpath(entry) for entry in sys.path])
    assert why_no_library() is None


@compiler
def test_it_is_kept_by_source_flags_torch_compiler_and_cpu(empty_cache, monkeypatch):
    kinds = {native._kind_of_library()}
    monkeypatch.setattr(cxx, "SOURCE", SOURCE + "// another")
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


TRAP = '\nextern "C" int hf_tanhmax_try() { __builtin_trap(); }'
WRONG = '\nextern "C" int hf_tanhmax_try() { return 0; }'
FAKE = """#!/bin/sh
case "$*" in *--version*) echo fake; exit 0;; esac
%s
"""


def fake_compiler(folder, does):
    path = folder / "fake-c++"
    path.write_text(FAKE % does)
    path.chmod(0o755)
    return str(path)


def spoil(kind, monkeypatch, folder):
    if kind == "no compiler":
        monkeypatch.setenv("CXX", str(folder / "nothing"))
    elif kind == "no compiler at all":
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.delenv("CXX", raising=False)
    elif kind in BROKEN_COMPILERS:
        monkeypatch.setenv("CXX", fake_compiler(folder, BROKEN_COMPILERS[kind]))
    elif kind == "bad code":
        monkeypatch.setattr(native, "SOURCE", "int function( { return 1; }")
    elif kind == "missing symbol":
        monkeypatch.setattr(
            native, "SOURCE", 'extern "C" int hf_tanhmax_nowhere_(); extern "C" int call() { return hf_tanhmax_nowhere_(); }'
        )
    elif kind == "a flag that lies":
        monkeypatch.setattr(native, "SOURCE", TRAP)
    elif kind == "wrong results":
        monkeypatch.setattr(native, "SOURCE", WRONG)
    elif kind == "no folder":
        (folder / "file").write_text("")
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder / "file" / "below"))
        native._own_home(make=False).write_text("")
    elif kind == "big-endian":
        monkeypatch.setattr(sys, "byteorder", "big")


BROKEN_COMPILERS = {
    "killed in the middle": "for last; do :; done; echo half > $last; kill -KILL $$",
    "silent": "exit 3",
    "out of room": "echo half; echo 'c++: fatal error: error writing: No space left on device' >&2; exit 1",
    "writes nothing": "exit 0",
    "writes rubbish": "for word; do case $word in *.so) echo rubbish > $word;; esac; done",
}
SPOILT = {
    "no compiler": "there is no C++ compiler",
    "no compiler at all": "there is no C++ compiler c++ or g++ or clang++ (CXX names another)",
    "killed in the middle": "the compiler was ended by SIGKILL",
    "silent": "the compiler failed with 3 and without a word",
    "out of room": "No space left on device",
    "writes nothing": "the compiler wrote no library",
    "writes rubbish": "",
    "bad code": "error:",
    "missing symbol": "undefined symbol: hf_tanhmax_nowhere_",
    "a flag that lies": "ended with SIGILL when it was tried: this processor does not do what it says it can",
    "wrong results": "computed something else when it was tried",
    "no folder": "no folder for it can be written: ",
    "big-endian": "little-endian",
}


@compiler
@pytest.mark.parametrize("kind", SPOILT)
def test_where_it_cannot_be_built_one_line_says_so_once(kind, empty_cache, monkeypatch, caplog, capfd):
    spoil(kind, monkeypatch, empty_cache)
    with caplog.at_level(logging.WARNING, "hf_tanhmax"):
        first, again = (tanhmax_attention(*TENSORS, implementation="cpu") for _ in range(2))
    *building, message = (record.getMessage() for record in caplog.records)
    assert building == ([] if kind in ("no compiler", "no compiler at all", "no folder") else [BUILDING])
    assert "does without its C++ operator, which could not be built: " in message
    assert SPOILT[kind] in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")
    assert torch.equal(first, again)
    torch.testing.assert_close(first, tanhmax_attention(*TENSORS, implementation="reference"))
    reason = why_not(*TENSORS, implementation="native")
    assert reason.startswith("implementation='native' could not be built: ")
    assert not [path for path in empty_cache.rglob("*") if path.suffix in (".so", ".cpp", ".o") or "building" in path.name]


PASSES = 'extern "C" int hf_tanhmax_try() { return 1; }'


@pytest.fixture
def quick_source(monkeypatch):
    """Code that takes no time to compile, and passes for a library that works."""
    monkeypatch.setattr(native, "SOURCE", PASSES)


@compiler
@pytest.mark.parametrize("home", ["a file is in its place", "read-only"])
def test_beside_a_cache_that_cannot_be_written_it_is_kept_in_a_folder_of_the_user(home, empty_cache, monkeypatch, caplog, quick_source):
    if home == "read-only":
        if os.getuid() == 0:  # who may write anywhere
            forbidden, mkdir = empty_cache / "cache", Path.mkdir

            def _mkdir(self, *arguments, **options):
                if self == forbidden or forbidden in self.parents:
                    raise OSError(30, "Read-only file system", str(self))
                return mkdir(self, *arguments, **options)

            monkeypatch.setattr(Path, "mkdir", _mkdir)
        else:
            (empty_cache / "cache").mkdir(mode=0o500)
    else:
        (empty_cache / "cache").write_text("")
    assert why_no_library() is None
    (path,) = empty_cache.rglob("*.so")
    assert path.parents[2] == empty_cache / "temporary"
    assert path.parents[1].stat().st_mode & 0o777 == 0o700
    (record,) = caplog.records
    assert f"{BUILDING}; [Errno" in record.getMessage()
    assert f"so it is kept in {path.parent}" in record.getMessage()
    native._native_library.cache_clear()
    assert why_no_library() is None
    assert len(caplog.records) == 1


@compiler
def test_a_temporary_folder_of_somebody_else_is_not_trusted(empty_cache, monkeypatch, caplog, quick_source):
    (empty_cache / "cache").write_text("")
    folder = native._own_home(make=True)
    kept = folder / f"{native.NATIVE_NAME}_{native._kind_of_library()}" / f"{native.NATIVE_NAME}.so"
    kept.parent.mkdir()
    kept.write_text("not to be loaded")
    folder.chmod(0o777)
    assert "is no folder that only its owner can write to" in why_no_library()
    assert kept.read_text() == "not to be loaded"


@compiler
def test_it_finds_a_library_in_a_folder_that_cannot_be_written(empty_cache, monkeypatch, caplog, quick_source):
    assert why_no_library() is None
    caplog.clear()
    native._native_library.cache_clear()
    monkeypatch.setattr(Path, "mkdir", None)
    assert why_no_library() is None
    assert not caplog.records


@compiler
@pytest.mark.filterwarnings("ignore:.*Popen:pytest.PytestUnraisableExceptionWarning")  # Python kills the compiler, and does not wait
def test_an_interrupt_leaves_nothing_behind_and_is_passed_on(empty_cache, monkeypatch):
    monkeypatch.setenv("CXX", fake_compiler(empty_cache, f"kill -INT {os.getpid()}; exec sleep 60"))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process that was begun in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            tanhmax_attention(*TENSORS, implementation="cpu")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not [path for path in (empty_cache / "cache").rglob("*") if path.is_file() or "building" in path.name]


@compiler
def test_what_a_killed_process_left_is_deleted_and_never_loaded(empty_cache, monkeypatch, quick_source):
    folder = empty_cache / "cache" / f"{native.NATIVE_NAME}_{native._kind_of_library()}"
    left = folder / "building-abc" / f"{native.NATIVE_NAME}.so"
    left.parent.mkdir(parents=True)
    left.write_text("half a library")
    assert why_no_library() is None
    assert [path.name for path in folder.iterdir()] == [f"{native.NATIVE_NAME}.so"]


@compiler
@pytest.mark.parametrize("failure", [ImportError("no fcntl"), OSError(37, "No locks available")])
def test_where_there_are_no_locks_it_is_built_without(failure, empty_cache, monkeypatch, quick_source):
    def _fail(*_):
        raise failure

    if isinstance(failure, ImportError):
        monkeypatch.setattr(native, "import_module", _fail)
    else:
        import fcntl

        monkeypatch.setattr(fcntl, "flock", _fail)
    assert why_no_library() is None


@compiler
def test_nobody_waits_forever_for_a_process_that_is_stuck(empty_cache, monkeypatch, caplog, quick_source):
    import fcntl

    monkeypatch.setattr(native, "LONGEST_BUILD", 0.5)
    monkeypatch.setattr(native, "_try_library", lambda path: None)
    folder = empty_cache / "cache" / f"{native.NATIVE_NAME}_{native._kind_of_library()}"
    folder.mkdir(parents=True)
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert why_no_library() is None
    finally:
        os.close(handle)
    assert [record.getMessage() for record in caplog.records] == [WAITING, BUILDING]


@compiler
def test_the_switch(empty_cache, monkeypatch, caplog):
    monkeypatch.setenv(NATIVE_SWITCH, "0")
    assert why_no_library() == "is switched off by HF_TANHMAX_NATIVE=0"
    assert environment._native(torch.device("cpu")).sentence.endswith("implementation='native' is switched off by HF_TANHMAX_NATIVE=0")
    assert not list(empty_cache.rglob("*.so"))
    monkeypatch.setenv(NATIVE_SWITCH, "yes")
    with pytest.raises(ValueError, match="HF_TANHMAX_NATIVE is 'yes'; set it to 0"):
        tanhmax_attention(*TENSORS, implementation="cpu")
    monkeypatch.setenv(NATIVE_SWITCH, "1")
    spoil("no compiler", monkeypatch, empty_cache)
    with pytest.raises(RuntimeError, match="HF_TANHMAX_NATIVE=1 asks for the C\\+\\+ operator, but it could not be built: there is no C"):
        tanhmax_attention(*TENSORS, implementation="cpu")
    assert environment._native(torch.device("cpu")).level == "error"
    assert not caplog.records


# The module without its package, whose other imports take long, and with code of five seconds that passes for a library that works.
YARDSTICK = """
#include <regex>
bool matches(const char* text, const char* pattern) { return std::regex_search(text, std::regex(pattern)); }
"""
ALONE = """
import sys, types

package = sys.modules["hf_tanhmax"] = types.ModuleType("hf_tanhmax")
package.__path__ = [sys.argv[1]]
from hf_tanhmax.attention.cpu import build

build.SOURCE = sys.argv[2]
print(build.native_library()._name)
"""
WAITING = "waiting for another process, which builds the C++ operator of TanhMax attention"


def start_alone(folder):
    settings = os.environ | {"TORCH_EXTENSIONS_DIR": str(folder), NATIVE_SWITCH: "1"}
    command = [sys.executable, "-c", ALONE, str(Path(hf_tanhmax.__file__).parent), YARDSTICK + PASSES]
    return subprocess.Popen(command, env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
@compiler
def test_of_two_processes_one_builds_and_the_other_waits_and_says_so(tmp_path):
    results = [process.communicate(timeout=300) for process in [start_alone(tmp_path) for _ in range(2)]]
    (path,) = tmp_path.rglob("*.so")
    assert [printed for printed, _ in results] == [f"{path}\n"] * 2
    assert sorted(said for _, said in results) == [f"{BUILDING}\n", f"{WAITING}\n"]
    assert list(path.parent.iterdir()) == [path]
    assert start_alone(tmp_path).communicate(timeout=300) == (f"{path}\n", "")


@pytest.mark.slow
@compiler
def test_a_process_that_is_killed_while_it_builds_hands_over_to_the_one_that_waits(tmp_path):
    first = start_alone(tmp_path)
    assert first.stderr.readline() == f"{BUILDING}\n"
    second = start_alone(tmp_path)
    assert second.stderr.readline() == f"{WAITING}\n"
    first.send_signal(signal.SIGKILL)
    printed, said = second.communicate(timeout=300)
    first.communicate()
    (path,) = tmp_path.rglob(f"*{native._kind_of_library()}/*.so")
    assert (printed, said) == (f"{path}\n", f"{BUILDING}\n")
    assert list(path.parent.iterdir()) == [path]


def processor_time_to_compile(source, folder):
    before = os.times()
    cxx.compile_operator(source, folder / "operator.so", cxx.NATIVE_FLAGS, [])
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.slow
@compiler
def test_it_is_built_in_three_times_what_a_regular_expression_takes(tmp_path):
    """That is 10 to 16 s of the processor, as its neighbours leave it. Code that takes too long does so each time."""
    ratios = []
    for _ in range(3):
        first, operator, last = (processor_time_to_compile(source, tmp_path) for source in (YARDSTICK, SOURCE, YARDSTICK))
        ratios.append(operator / ((first + last) / 2))
        if 1.0 < ratios[-1] < 3.0:  # usually 2.1 to 2.9
            break
    else:
        pytest.fail(f"{ratios} times what compiling a regular expression takes")


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
