"""The compiler of the C++ operator: its code, its flags, and how it is called. `wheel` runs it alone, so it imports Python's own."""

import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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
    Path(__file__).with_name("trial.cpp").read_text(encoding="utf-8"),
)
SOURCE = "".join(PARTS)
NATIVE_NAME = "hf_tanhmax_attention"
CODE_FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
# As wide vectors as the processor has: compilers prefer half as wide ones.
WIDE_FLAGS = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
NATIVE_FLAGS = (*CODE_FLAGS, "-march=native", *WIDE_FLAGS)
LONGEST_BUILD = 300  # seconds


def cxx_compiler() -> list[str]:
    """The command of the compiler: that of `CXX`, else the first that there is.

    Raises:
        RuntimeError: there is none.
    """
    wanted = shlex.split(os.environ.get("CXX", ""))
    names = [wanted] if wanted else [["c++"], ["g++"], ["clang++"]]
    found = next((command for command in names if shutil.which(command[0])), None)
    if found is None:
        raise RuntimeError(f"there is no C++ compiler {' or '.join(command[0] for command in names)} (CXX names another)")
    return found


def compile_operator(source: str, library: Path, flags: Sequence[str], links: Sequence[str]) -> None:
    """Compile `source` and link it into `library`, in whose folder its text and object code are left.

    Raises:
        RuntimeError: there is no compiler, or it ends without a library; the text is the compiler's own.
        OSError, subprocess.SubprocessError: it does not start, or does not end.
    """
    if sys.byteorder != "little":
        raise RuntimeError("it is for little-endian machines")
    compiler, text, code = cxx_compiler(), library.with_suffix(".cpp"), library.with_suffix(".o")
    text.write_text(source, encoding="utf-8")
    # What gcc calls for threads, torch's own library has loaded; clang calls others, which are linked.
    threads = ["-fopenmp"] if "clang" in _printed_by([*compiler, "--version"]) else []
    _printed_by([*compiler, *flags, "-c", str(text), "-o", str(code)])
    _printed_by([*compiler, "-shared", str(code), "-o", str(library), *threads, *links])
    if not library.is_file():
        raise RuntimeError("the compiler wrote no library")


def _printed_by(command: Sequence[str]) -> str:
    """What a compiler prints.

    Raises:
        RuntimeError: it fails, or is ended by a signal.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LONGEST_BUILD, check=False)
    if done.returncode < 0:
        raise RuntimeError(f"the compiler was ended by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or done.stdout.strip() or f"the compiler failed with {done.returncode} and without a word")
    return done.stdout


def source_digest(*more: str) -> str:
    """A short name of the code, and of what else a library depends on."""
    return hashlib.sha256("\n".join((SOURCE, *more)).encode()).hexdigest()[:16]
