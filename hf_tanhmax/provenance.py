"""Where a measurement comes from: the versions of packages, the commit of the working tree, and the machine."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from typing import TypedDict

from .package_data import data_folder

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "peft", "hf-tanhmax")


class Commit(TypedDict):
    """The commit of a working tree, and whether the tree differs from it."""

    commit: str
    changed: bool


class Machine(TypedDict, total=False):
    """A machine, and the processes on it, as far as they bear on the numbers."""

    platform: str
    cpus: int | None
    threads: int
    gpu: str | None
    device: str
    num_processes: int
    distributed_type: str


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Of Python, of the packages that bear on the numbers, and of more packages."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in (*PACKAGES, *more)}}


def git_commit() -> Commit | None:
    """Commit of the working tree that the recipes are in, and whether it differs from it; None outside one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(data_folder("recipes")), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> Machine:
    """This machine, and the processes that accelerate launched on it."""
    import torch
    from accelerate import PartialState

    state = PartialState()
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if state.device.type == "cuda" else None,
        "device": state.device.type,
        "num_processes": state.num_processes,
        "distributed_type": state.distributed_type.value,
    }
