"""A folder with the packages that one extra installs and no others, so that what is missing in it is missed."""

from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import hf_tanhmax

PROJECT = Path(hf_tanhmax.__file__).parent.parent


def only(extra: str, folder: Path) -> Path:
    """Links to what `pip install hf-tanhmax[extra]` brings of this environment: `python -S` with them and `PROJECT` sees nothing else."""
    tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pending = [*_wanted(declared["dependencies"], frozenset()), *_wanted(declared["optional-dependencies"][extra], frozenset())]
    seen = set()
    while pending:
        name, extras = pending.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        _link(found, folder)
        pending += _wanted(found.requires or (), extras)
    _link(metadata.distribution("hf-tanhmax"), folder)
    return folder


def _wanted(texts: Iterable[str], extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for requirement in map(Requirement, texts):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": one}) for one in extras or {""}):
            yield requirement.name, frozenset(requirement.extras)


def _link(found: metadata.Distribution, folder: Path) -> None:
    for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
        path, source = folder / top, Path(found.locate_file(top))
        if source.exists() and not path.exists():
            path.symlink_to(source)
