"""Builds the C++ operator on first use, or takes it from a wheel that brings it; tries it, keeps it, loads it.

It needs a C++ compiler with OpenMP, unless the wheel has a library (`wheel`) for this processor and this torch. It is kept in torch's
folder for extensions (`TORCH_EXTENSIONS_DIR`, by default `~/.cache/torch_extensions`), or where that cannot be written, in a folder of the
user among the temporary ones; there in a folder of its own for each version of the code, its flags, torch and kind of CPU. A library is
tried first, by a process of its own, and then moved into place whole, so that what lies there is complete and runs. One process builds, and
others that want the same wait for it; one that is stopped leaves no lock behind.

The environment variable `HF_TANHMAX_NATIVE` has the say: `0` never uses it, `1` raises where it cannot be built; unset, where it cannot be
built, that is logged once in one line, and attention runs with torch's own operators.
"""

import ctypes
import functools
import json
import logging
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch

from .compiler import LONGEST_BUILD, NATIVE_FLAGS, NATIVE_NAME, SOURCE, compile_operator, cxx_compiler, source_digest

logger = logging.getLogger(__name__)

NATIVE_SWITCH = "HF_TANHMAX_NATIVE"
PREBUILT = Path(__file__).with_name("prebuilt")
PREBUILT_TORCH = ((2, 11), (2, 15))  # the oldest and the newest that a library which a wheel brings was tried with
# Run by another process, with torch's libraries in it, which the library needs.
TRIAL = """
import sys
sys.path += sys.argv[2:]
import ctypes, torch
torch.set_num_threads(1)
sys.exit(not ctypes.CDLL(sys.argv[1]).hf_tanhmax_try())
"""


def native_library() -> ctypes.CDLL | None:
    """The library; None where `why_no_library` says why not.

    Raises:
        RuntimeError: it is wanted by `HF_TANHMAX_NATIVE=1` and cannot be built.
        ValueError: `HF_TANHMAX_NATIVE` is neither 0 nor 1.
    """
    found = _native_or_reason(os.environ.get(NATIVE_SWITCH))
    return None if isinstance(found, str) else found


def why_no_library() -> str | None:
    """Why there is no library, as the end of a sentence about the operator; None if there is one. Raises as `native_library`."""
    found = _native_or_reason(os.environ.get(NATIVE_SWITCH))
    return found if isinstance(found, str) else None


def _native_or_reason(switch: str | None) -> ctypes.CDLL | str:
    if switch == "0":
        return f"is switched off by {NATIVE_SWITCH}=0"
    if switch not in (None, "", "1"):
        raise ValueError(f"{NATIVE_SWITCH} is {switch!r}; set it to 0 (never) or 1 (always), or not at all")
    found = _native_library()
    if isinstance(found, str):
        if switch == "1":
            raise RuntimeError(f"{NATIVE_SWITCH}=1 asks for the C++ operator, but it {found}")
        _warn_of(found)
    return found


@functools.cache
def _native_library() -> ctypes.CDLL | str:
    try:
        return ctypes.CDLL(str(_kept_library()))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"could not be built: {_telling_line(error)}"


@functools.cache
def _warn_of(reason: str) -> None:
    logger.warning("TanhMax attention on the CPU does without its C++ operator, which %s (%s=0: as intended)", reason, NATIVE_SWITCH)


def _kept_library() -> Path:
    """The path of the library, which is put there if it does not exist."""
    name, unwritable = f"{NATIVE_NAME}_{_kind_of_library()}", ""
    homes = (_torch_home, _own_home)
    for home in homes:
        path = home(make=False) / name / f"{NATIVE_NAME}.so"
        if path.is_file():
            return path
    for home in homes:
        try:
            folder = home(make=True) / name
            folder.mkdir(exist_ok=True)
            return _put_into(folder, unwritable)
        except OSError as error:
            unwritable = f"{unwritable}{_telling_line(error)}; "
    raise RuntimeError(f"no folder for it can be written: {unwritable.rstrip('; ')}")


def _put_into(folder: Path, unwritable: str) -> Path:
    path = folder / f"{NATIVE_NAME}.so"
    with _one_at_a_time(folder) as alone:
        if path.is_file():
            return path
        for left in folder.glob("building-*") if alone else ():  # by processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="building-", ignore_cleanup_errors=True) as own:
            _new_library(Path(own), unwritable).replace(path)
    return path


def _new_library(own: Path, unwritable: str) -> Path:
    """A library in this folder that was tried: the wheel's, else one that is compiled now, of which a line tells."""
    path, reason = own / f"{NATIVE_NAME}.so", ""
    for prebuilt in _prebuilt_libraries():
        try:
            if isinstance(prebuilt, str):
                raise RuntimeError(prebuilt)
            shutil.copyfile(prebuilt, path)
            _try_library(path)
        except (OSError, RuntimeError) as error:
            reason = f"; the one that is installed {_telling_line(error)}"
        else:
            return path
    cxx_compiler()  # or nothing is built
    where = f"; {unwritable.rstrip('; ')}, so it is kept in {own.parent}" if unwritable else ""
    logger.warning("building the C++ operator of TanhMax attention, once for this machine: some ten seconds%s%s", reason, where)
    # Of torch's libraries alone: what they need they have found already.
    torch_libraries = Path(torch.__file__).with_name("lib")
    compile_operator(SOURCE, path, NATIVE_FLAGS, [f"-L{torch_libraries}", "-ltorch_cpu"])
    _try_library(path)
    return path


def _prebuilt_libraries() -> Iterator[Path | str]:
    """Libraries of the wheel that this processor can run, the fastest first, or why there is none, as the end of a sentence."""
    try:
        known = json.loads((PREBUILT / "libraries.json").read_text(encoding="utf-8"))
        source, machine, libraries = (known[name] for name in ("source", "machine", "libraries"))
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        yield "has no readable libraries.json"
        return
    oldest, newest = PREBUILT_TORCH
    if not oldest <= tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) <= newest:
        tried = " to ".join(".".join(map(str, version)) for version in PREBUILT_TORCH)
        yield f"was tried with torch {tried}, and this is {torch.__version__}"
    elif source != source_digest():
        yield "is of other code"
    elif machine != platform.machine():
        yield f"is for {machine}, and this is {platform.machine()}"
    else:
        able = set(_processor().split())
        yield from [PREBUILT / name for name, needed in libraries.items() if able.issuperset(needed)] or ["is for other processors"]


def _try_library(path: Path) -> None:
    """Have another process compute with a library: where the processor cannot what it says, that one ends.

    Raises:
        RuntimeError: the process ends, or computes something else.
    """
    if not sys.executable:
        raise RuntimeError("cannot be tried, as this Python does not know its own program")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # Torch is found wherever this process has found it, but after Python's own modules, as a file in a folder of the user's may have the
    # name of one. That is why it runs in a folder without Python files, too.
    command = [sys.executable, "-c", TRIAL, str(path.resolve()), *map(os.path.abspath, sys.path)]
    done = subprocess.run(
        command, env=environment, cwd=path.parent, capture_output=True, text=True, errors="replace", timeout=LONGEST_BUILD, check=False
    )
    if done.returncode < 0:
        reason = f"ended with {signal.Signals(-done.returncode).name}"
        raise RuntimeError(f"{reason} when it was tried: this processor does not do what it says it can")
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2] or "computed something else when it was tried")


def _torch_home(*, make: bool) -> Path:
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    home = Path(given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions")
    if make:
        home.mkdir(parents=True, exist_ok=True)
    return home


def _own_home(*, make: bool) -> Path:
    """A folder among the temporary ones, to which nobody else can write: what lies there is run."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    home = Path(tempfile.gettempdir()) / f"{NATIVE_NAME}_{user}"
    if make:
        home.mkdir(mode=0o700, exist_ok=True)
    try:
        found = home.lstat()
    except FileNotFoundError:
        return home
    others = stat.S_IMODE(found.st_mode) & 0o022 or (hasattr(os, "getuid") and found.st_uid != user)
    if not stat.S_ISDIR(found.st_mode) or (others and os.name == "posix"):
        if make:
            raise PermissionError(f"{home} is no folder that only its owner can write to")
        return home / "not to be read"
    return home


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[bool]:
    """Wait for other processes that put a library into this folder; whether this process is then alone, which not every system can tell.

    The lock is on the folder itself, and ends with the process that holds it.
    """
    try:
        locks, handle = import_module("fcntl"), os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield False
        return
    try:
        yield _locked(locks.flock, handle, locks.LOCK_EX | locks.LOCK_NB)
    finally:
        os.close(handle)


def _locked(flock: Callable[[int, int], None], handle: int, kind: int) -> bool:
    """Whether the lock is had before whoever has it must be stuck."""
    until, said = time.monotonic() + LONGEST_BUILD, False
    while time.monotonic() < until:
        try:
            flock(handle, kind)
        except BlockingIOError:
            if not said:
                logger.warning("waiting for another process, which builds the C++ operator of TanhMax attention")
            said = True
            time.sleep(0.1)
        except OSError:
            return False
        else:
            return True
    return False


def _kind_of_library() -> str:
    """What a library depends on: this source, its flags, the compiler, torch, and what the CPU can do (`-march=native`)."""
    parts = (*NATIVE_FLAGS, os.environ.get("CXX", ""), torch.__version__, platform.machine(), platform.processor(), _processor())
    return source_digest(*parts)


def _processor() -> str:
    """What the processor says it can, in words; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _telling_line(error: Exception) -> str:
    """The line of an error that says most: the compiler's, the linker's or the system's own, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = (line for line in lines if any(word in line for word in ("error:", "not found", "undefined symbol")))
    return next(telling, next(iter(lines), type(error).__name__))[:400]
