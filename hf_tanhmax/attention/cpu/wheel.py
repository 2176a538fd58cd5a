"""Hatchling's hook for wheels with the C++ operator inside: `HF_TANHMAX_PREBUILT=1 pip wheel .`; else wheels are pure.

One library is compiled for each of `PROCESSORS` that this machine's compiler knows. None depends on Python or on torch's headers: of
torch's library it needs two functions, which it finds where torch is loaded. So neither is needed here, and the wheel says which machine it
is for, but no version of Python. `build` takes a library where the processor has what it was compiled for, and tries it before use. `CXX`
names another compiler, such as one for another machine: then `HF_TANHMAX_PREBUILT=aarch64` names that.

This file is run by itself, so it imports nothing of the package; `compiler.py` beside it is run in the same way.
"""

import json
import os
import platform
import runpy
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PREBUILT_SWITCH = "HF_TANHMAX_PREBUILT"
HERE = Path(__file__).parent
# By machine: libraries, the fastest first, with the flags that compile them and the words of `/proc/cpuinfo` for what they need.
PROCESSORS: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "x86_64": {
        "x86-64-v4": (
            ("-march=x86-64-v4", "-mprefer-vector-width=512"),
            ("avx2", "bmi2", "f16c", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
        ),
        "x86-64-v3": (("-march=x86-64-v3",), ("avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")),
    },
    "aarch64": {"armv8-a": (("-march=armv8-a",), ("asimd",))},
}


class OperatorHook(BuildHookInterface):
    """Adds the libraries to a wheel, if the user asks for them."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile them, into a folder of hatchling's.

        Raises:
            SystemExit: there is no compiler, it fails, or the machine is none of `PROCESSORS`.
        """
        wanted = os.environ.get(PREBUILT_SWITCH, "0")
        if wanted in ("", "0") or version == "editable":
            return
        machine = platform.machine() if wanted == "1" else wanted
        if not sys.platform.startswith("linux") or machine not in PROCESSORS:
            sys.exit(f"{PREBUILT_SWITCH}={wanted} compiles for Linux on {' and '.join(PROCESSORS)}, not for {sys.platform} on {machine}")
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        for path in compiled(machine, folder):
            build_data["force_include"][str(path)] = f"hf_tanhmax/attention/cpu/prebuilt/{path.name}"
        build_data["pure_python"] = False
        system = sysconfig.get_platform().replace("-", "_").replace(".", "_").replace(platform.machine(), machine)
        build_data["tag"] = f"py3-none-{system}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _folder(self) -> Path:
        return Path(self.directory) / "prebuilt"


def compiled(machine: str, folder: Path) -> list[Path]:
    """The libraries for a machine, and the file that tells of them.

    Raises:
        SystemExit: as `OperatorHook.initialize`.
    """
    compiler = runpy.run_path(str(HERE / "compiler.py"))
    compile_operator, links = compiler["compile_operator"], [f"-L{folder}", "-Wl,--no-as-needed", "-ltorch_cpu"]
    stub, needed = folder / "libtorch_cpu.so", {}
    try:
        # Stands for torch's library, of which nothing but the name is written into ours.
        compile_operator("", stub, ("-fPIC",), ["-Wl,-soname,libtorch_cpu.so"])
        for name, (flags, words) in PROCESSORS[machine].items():
            path = folder / f"{machine}-{name}.so"
            compile_operator(compiler["SOURCE"], path, (*compiler["CODE_FLAGS"], *flags), links)
            needed[path.name] = words
    except (OSError, RuntimeError) as error:
        sys.exit(f"{PREBUILT_SWITCH}: the C++ operator could not be built: {error}")
    known = folder / "libraries.json"
    known.write_text(json.dumps({"source": compiler["source_digest"](), "machine": machine, "libraries": needed}, indent=1) + "\n")
    return [known, *(folder / name for name in needed)]
