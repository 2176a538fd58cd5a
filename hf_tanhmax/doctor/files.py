"""Checks of every file of a checkpoint: complete, readable without running code, and without what should not be published.

A pickled file runs code when it is read. None is read here: a pickle is known by its name or its first bytes.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import one_line
from .report import Finding

PICKLED = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".msgpack.pkl"})
PICKLE_START = re.compile(rb"\x80[\x02-\x05]")  # the opcode that names the protocol, and every protocol since Python 2.3
ZIP_START = b"PK\x03\x04"  # what torch.save writes around its pickle
UNFINISHED = frozenset({".partial", ".incomplete", ".tmp", ".lock"})
# The Trainer leaves its own state in the folder it saves to, pickled. It holds no weights, and a model does not need it.
TRAINER_STATE = re.compile(r"(training_args\.bin|(optimizer|scheduler|scaler)\.(bin|pt)|rng_state(_\d+)?\.pth)")
# Folders of a run that hold its way and not its result.
LEFT_OUT = re.compile(r"checkpoint-\d+|runs|logs|\..*|__pycache__")
TOKEN = re.compile(rb"(?<![A-Za-z0-9])(hf|api_org)_[A-Za-z0-9]{30,}")
SNIFFED = 4096


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of a checkpoint and of the folders in it, without the Trainer's own checkpoints, logs and hidden files."""
    found = (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if not path.is_dir())
    return sorted(path for path in found if not any(LEFT_OUT.fullmatch(part) for part in path.relative_to(folder).parts))


def check_files(folder: Path) -> Iterator[Finding]:
    """Findings about single files; none for a file that is as it should be."""
    for path in checkpoint_files(folder):
        name = path.relative_to(folder).as_posix()
        for level, sentence in _faults(path):
            yield Finding(level, name, sentence)  # type: ignore[arg-type]


def _faults(path: Path) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        yield "error", "is a link to nothing; copy the file itself"
        return
    if path.suffix in UNFINISHED:
        yield "warning", "was left by something that did not finish writing; delete it"
    start = _start(path)
    if not start and path.suffix != ".py":
        yield "error", "is empty, so whatever wrote it did not finish; write or copy it again"
    elif TRAINER_STATE.fullmatch(path.name):
        yield "warning", "is pickled state of the Trainer, which the model does not need and which is not published; delete it"
    elif path.suffix in PICKLED or _is_pickle(path, start):
        yield (
            "error",
            "is pickled, so reading it can run any code, and nothing here ever does; save the model again, and delete it",
        )
    elif path.suffix == ".json" and (fault := _json_fault(path)):
        yield "error", f"is not JSON ({fault}), so it was cut off or edited; write or copy it again"
    if b"\x00" not in start:
        for number in _token_lines(path):
            yield "error", f"holds what looks like an access token in line {number}; take it out, and revoke it if anybody saw it"


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SNIFFED)


def _is_pickle(path: Path, start: bytes) -> bool:
    if start.startswith(ZIP_START) and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    return PICKLE_START.match(start) is not None and path.suffix != ".safetensors"


def _json_fault(path: Path) -> str | None:
    try:
        json.loads(path.read_bytes())
    except ValueError as error:
        return one_line(error)
    return None


def _token_lines(path: Path) -> Iterator[int]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if TOKEN.search(line):
                yield number
