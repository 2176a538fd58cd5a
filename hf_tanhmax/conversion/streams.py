"""What a refit keeps on the disk: hidden states of every batch before the layer that is being fitted, and what was fitted so far.

A folder may outlive the process: whoever continues there reads the same numbers, so the result is the same to the bit. A file is complete
once it has its name, and those of a layer are deleted after the layer is recorded as fitted.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import one_line

RUN = "refit.json"
SAMPLE = 64  # numbers at either end of a parameter that its digest is of


class Streams:
    """Tensors in a folder.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, name: str, value: object) -> None:
        """Keep tensors, or lists and dictionaries of them, under a name; what they share is kept once."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        try:
            torch.save(value, partial)
        except (OSError, RuntimeError) as error:  # PyTorch's own writer raises the latter where the disk is full
            raise OSError(f"cannot write {path}: {one_line(error, 200)}; make room there, or name another folder") from error
        partial.replace(path)

    def load(self, name: str) -> Any:
        """What was kept under a name, on the CPU."""
        return torch.load(self.folder / name, map_location="cpu", weights_only=True)

    def has(self, name: str) -> bool:
        """Whether something is kept under a name."""
        return (self.folder / name).is_file()

    def drop(self, folder: str) -> None:
        """Delete what is kept under names that begin with a folder."""
        shutil.rmtree(self.folder / folder, ignore_errors=True)

    def begin(self, run: Mapping[str, object]) -> None:
        """Record what is run, or check that it is what was run here before.

        Raises:
            ValueError: it is something else.
        """
        path = self.folder / RUN
        if not path.is_file():
            partial = path.with_name(f"{RUN}.partial")
            partial.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
            os.replace(partial, path)
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            differing = [key for key in run if before[key] != run[key]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no record of a refit; delete it, or name another folder") from error
        if differing:
            raise ValueError(
                f"{self.folder} holds a refit with other {' and '.join(differing)}; continue with the same, or name another folder"
            )


def digest_of_tensors(*tensors: Tensor) -> str:
    """A digest of tensors' contents."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def digest_of_weights(model: nn.Module) -> str:
    """A digest of a few numbers of every parameter, which tells one checkpoint from another."""
    found = hashlib.sha256()
    for name, value in model.named_parameters():
        flat = value.detach().flatten()
        found.update(f"{name}{digest_of_tensors(torch.cat([flat[:SAMPLE], flat[-SAMPLE:]]), torch.tensor(value.shape))}".encode())
    return found.hexdigest()
