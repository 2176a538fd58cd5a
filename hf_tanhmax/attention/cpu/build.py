"""Builds `attention.cpp` and its headers, as one, on first use with torch's extension loader; keeps and loads the library, if it can.

It needs a C++ compiler with OpenMP, and ninja. It is kept in torch's folder for extensions (`TORCH_EXTENSIONS_DIR`, by default
`~/.cache/torch_extensions`), in a folder of its own for each version of the code, its flags, torch and kind of CPU. A process that finds
none there builds one in a folder that nobody else has and then moves it into place, so several may do that at once, and one that is stopped
leaves no lock behind.

The environment variable `HF_TANHMAX_NATIVE` has the say: `0` never uses it, `1` raises where it cannot be built; unset, where it cannot be
built, that is logged once in one line, and attention runs with torch's own operators.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

# In the file that is published with a checkpoint, the texts themselves stand here (`models.bundle`).
PARTS = (
    Path(__file__).with_name("numbers.h").read_text(encoding="utf-8"),
    Path(__file__).with_name("rows.h").read_text(encoding="utf-8"),
    Path(__file__).with_name("products.h").read_text(encoding="utf-8"),
    Path(__file__).with_name("half.h").read_text(encoding="utf-8"),
    Path(__file__).with_name("added.h").read_text(encoding="utf-8"),
    Path(__file__).with_name("weights.h").read_text(encoding="utf-8"),
    Path(__file__).with_name("few.h").read_text(encoding="utf-8"),
    Path(__file__).with_name("attention.cpp").read_text(encoding="utf-8"),
)
SOURCE = "".join(PARTS)
NATIVE_SWITCH = "HF_TANHMAX_NATIVE"
# As wide vectors as the processor has: compilers prefer half as wide ones.
WIDE_FLAGS = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
NATIVE_FLAGS = ("-O3", "-std=c++17", "-march=native", *WIDE_FLAGS, "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
NATIVE_NAME = "hf_tanhmax_attention"


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
        return ctypes.CDLL(str(_built_library()))
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"could not be built: {_telling_line(error)}"


@functools.cache
def _warn_of(reason: str) -> None:
    logger.warning("TanhMax attention on the CPU does without its C++ operator, which %s (%s=0: as intended)", reason, NATIVE_SWITCH)


def _built_library() -> Path:
    """The path of the library, which is built if it does not exist."""
    if sys.byteorder != "little":
        raise RuntimeError("it is for little-endian machines")
    home = os.environ.get("TORCH_EXTENSIONS_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"
    folder = Path(home) / f"{NATIVE_NAME}_{_kind_of_library()}"
    path = folder / f"{NATIVE_NAME}.so"
    if not path.exists():
        from torch.utils.cpp_extension import load_inline

        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as own, _quiet_loader():
            # What gcc calls for threads, torch's own library has loaded; clang calls others.
            threads = ["-fopenmp"] if "clang" in os.environ.get("CXX", "") else None
            options = {"no_implicit_headers": True, "is_python_module": False, "with_cuda": False, "extra_ldflags": threads}
            load_inline(NATIVE_NAME, SOURCE, extra_cflags=list(NATIVE_FLAGS), build_directory=own, **options)
            next(Path(own).glob("*.so")).replace(path)
    return path


@contextmanager
def _quiet_loader() -> Iterator[None]:
    """Silence the loader's warnings about compilers: they concern classes of torch, which the library does not use; errors are raised."""
    loader = logging.getLogger("torch.utils.cpp_extension")
    level = loader.level
    loader.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        loader.setLevel(level)


def _kind_of_library() -> str:
    """What a library depends on: this source, its flags, the compiler, torch, and what the CPU can do (`-march=native`)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    able = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    parts = (SOURCE, *NATIVE_FLAGS, os.environ.get("CXX", ""), torch.__version__, platform.machine(), platform.processor(), able)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _telling_line(error: Exception) -> str:
    """The line of an error that says most: the compiler's, the linker's or the system's own, else the first."""
    lines = [line.strip() for text in (error, error.__cause__ or "") for line in str(text).splitlines() if line.strip()]
    telling = (line for line in lines if any(word in line for word in ("error:", "not found", "undefined symbol")))
    return next(telling, next(iter(lines), type(error).__name__))[:200]
