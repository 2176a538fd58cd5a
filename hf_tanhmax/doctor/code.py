"""The code that a checkpoint brings along, for those who load it without the plugin. It is read as text and compared, never imported."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoint import CONFIG
from ..models.remote_code import CODE_FILE, auto_map, verdict
from ..settings_text import some
from .report import Finding

MODULE = Path(CODE_FILE).stem
OTHER_VERSION = " and this is "  # in a verdict about a file that another version wrote, which still runs


def check_code(folder: Path, values: dict[str, Any]) -> Iterator[Finding]:
    """Findings about `auto_map`, the file of code that it should name, and any other code.

    Args:
        folder: of the checkpoint.
        values: its config.json.
    """
    mapped = {str(auto): str(target) for auto, target in (values.get("auto_map") or {}).items()}
    yield from _check_map(folder, mapped, values.get("model_type"))
    path = folder / CODE_FILE
    if path.is_file():
        said = verdict(path.read_text(encoding="utf-8", errors="replace"))
        if said is None:
            yield Finding("ok", CODE_FILE, "is exactly what this version writes")
        else:
            yield Finding("warning" if OTHER_VERSION in said else "error", CODE_FILE, said.removeprefix(f"{CODE_FILE} "))
    for other in sorted(path.name for path in folder.glob("*.py") if path.name != CODE_FILE):
        yield Finding("warning", other, "is code that hf_tanhmax did not write; read it before anybody runs it, or delete it")


def _check_map(folder: Path, mapped: dict[str, str], model_type: object) -> Iterator[Finding]:
    if not mapped:
        say = "has no auto_map, so the model loads only where hf_tanhmax is imported; save it again with this version"
        yield Finding("warning", CONFIG, say)
        return
    elsewhere = sorted({target.split("--")[0] for target in mapped.values() if "--" in target})
    if elsewhere:
        say = f"has an auto_map that takes code from another repository ({some(elsewhere)}), whoever may write there; save it again"
        yield Finding("warning", CONFIG, say)
    local = {target.rsplit(".", 1)[0] for target in mapped.values() if "--" not in target}
    missing = sorted(f"{module}.py" for module in local if not (folder / f"{module}.py").is_file())
    if missing:
        yield Finding("error", CONFIG, f"has an auto_map that names {some(missing)}, which is not there; save the model again")
    wanted = auto_map(str(model_type))
    if local == {MODULE} and not elsewhere and mapped != wanted:
        differing = some(auto for auto in {*mapped, *wanted} if mapped.get(auto) != wanted.get(auto))
        yield Finding("warning", CONFIG, f"has an auto_map that differs from its family's in {differing}; save it again")
