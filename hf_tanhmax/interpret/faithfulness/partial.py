"""Values of a comparison that is not finished, in a file of JSON lines, so that one that was stopped goes on where it was.

The first line is the fingerprint of the run: of its texts, models and settings, without the methods and the number of seeds, so that more
of these can be asked for. Every other line is what one model, method and seed gave on one part of the texts, or all its heads.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

Key = tuple[str, str, int, int]  # model, method, seed, and number of the part


class PartialValues:
    """What is known already of a comparison.

    Args:
        path: of the file; None keeps everything in memory alone.
        fingerprint: of the run.

    Raises:
        ValueError: the file is of another run.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.path = path
        self.values: dict[Key, dict[str, dict[int, float]]] = {}
        self.targets: dict[str, dict[int, int]] = {}
        self.notes: dict[str, Any] = {}
        self.seconds = 0.0
        text = path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""
        lines = text.splitlines()
        if not lines:
            self._write({"fingerprint": fingerprint})
            return
        if _parsed(lines[0]).get("fingerprint") != fingerprint:
            raise ValueError(
                f"{path} holds a part of another comparison (other texts, models or settings); remove it, or name another file"
            )
        for line in lines[1:]:
            self._take(_parsed(line))
        if path is not None and not text.endswith("\n"):  # what was cut off is a line of its own
            path.write_text(text + "\n", encoding="utf-8")

    def add(self, values: Mapping[Key, dict[str, dict[int, float]]], targets: Mapping[str, dict[int, int]], seconds: float) -> None:
        """Keep what a part of the texts gave, all at once, and how long that took."""
        entries = [[*key, {name: _plain(rows) for name, rows in by_measure.items()}] for key, by_measure in values.items()]
        found = {"values": entries, "targets": {model: list(rows.items()) for model, rows in targets.items()}, "seconds": seconds}
        self._write(found)
        self._take(found)

    def note(self, name: str, what: object, seconds: float = 0.0) -> None:
        """Keep something else under a name."""
        found = {"note": name, "what": what, "seconds": seconds}
        self._write(found)
        self._take(found)

    def remove(self) -> None:
        """Remove the file, if there is one."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _take(self, found: dict[str, Any]) -> None:
        for model, method, seed, part, by_measure in found.get("values", ()):
            self.values[(model, method, seed, part)] = {name: _numbers(pairs) for name, pairs in by_measure.items()}
        for model, pairs in found.get("targets", {}).items():
            self.targets.setdefault(model, {}).update({int(index): target for index, target in pairs})
        if "note" in found:
            self.notes[found["note"]] = found["what"]
        self.seconds += found.get("seconds", 0.0)

    def _write(self, found: dict[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")


def fingerprint(models: Mapping[str, PreTrainedModel], texts: list[str], settings: Mapping[str, object]) -> str:
    """A digest of the texts, of the weights and configs of models, and of settings.

    Args:
        models: by name.
        texts: of each input something that tells it from others.
        settings: what JSON takes.
    """
    digest = hashlib.sha256(json.dumps([texts, settings], sort_keys=True).encode())
    for name, model in models.items():
        digest.update(f"{name} {type(model).__name__} {model.config.to_json_string()}".encode())
        for parameter in model.parameters():
            digest.update(parameter.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _plain(rows: Mapping[int, float]) -> list[list[object]]:
    return [[index, None if math.isnan(value) else value] for index, value in rows.items()]


def _numbers(pairs: list[list[Any]]) -> dict[int, float]:
    return {int(index): math.nan if value is None else float(value) for index, value in pairs}


def _parsed(line: str) -> dict[str, Any]:
    """A line; one that was cut off when the run was killed holds nothing."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
