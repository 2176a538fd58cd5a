"""What is published of a folder: what loading it reads, its card and its results. Everything else stays where it is.

A staged folder holds exactly what will be in the repository, so that what is checked is what is published.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from .. import checkpoint
from ..ablation import ABLATION
from ..checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE, CONFIG, INDEX, RESULTS, WEIGHTS, CheckpointError, JsonObject
from ..conversion.report import CONVERSION, ORIGINALS
from ..doctor import check_checkpoint, errors_in
from ..integration.kernel_note import forgotten, kernel_of
from ..models.architectures import upstream_type
from ..models.remote_code import CODE_FILE, auto_map, source
from .documents import CARD, with_base, write_documents
from .errors import HubError

SHARDS = "model-*-of-*.safetensors"
MODEL = (CONFIG, "generation_config.json", CODE_FILE)
PROCESSOR = (
    "added_tokens.json",
    "additional_chat_templates/*.jinja",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "normalizer.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentencepiece.bpe.model",
    "source.spm",
    "special_tokens_map.json",
    "spiece.model",
    "target.spm",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.txt",
)
DOCUMENTS = (CARD, RESULTS, CONVERSION, ORIGINALS, ABLATION, "figures/*.png", ".eval_results/*.yaml", "LICENSE*", "NOTICE*")
# What an earlier push left and this one does not bring would be loaded instead of it, or believed.
REPLACED = (*MODEL, WEIGHTS, INDEX, SHARDS, ADAPTER_CONFIG, ADAPTER_WEIGHTS, RESULTS, CONVERSION, ORIGINALS, ABLATION)

ABSOLUTE = re.compile(r"(/|[A-Za-z]:[\\/])[^/\\]+[/\\].+")
WRITTEN_BY_HAND = (".json", ".md", ".yaml")  # what may quote a path or a token; vocabularies may hold anything


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter; a whole model beside it is ambiguous.

    Raises:
        HubError: not a folder, one with both, or an adapter that is not in safetensors.
    """
    if not folder.is_dir():
        raise HubError(f"{folder} is not a folder: pass the output folder of a run, or one that save_pretrained wrote")
    if not (folder / ADAPTER_CONFIG).is_file():
        return False
    if (folder / WEIGHTS).exists() or (folder / INDEX).exists():
        raise HubError(f"{folder} holds an adapter and a whole model: move the one that is not to be published elsewhere")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise HubError(f"{folder} has no {ADAPTER_WEIGHTS}: save the adapter with save_pretrained, which writes safetensors")
    return True


def stage_model(folder: Path, into: Path, *, repo_id: str, secrets: Iterable[str] = ()) -> list[str]:
    """Gather what is published of a checkpoint, and check it; missing parts are written.

    Args:
        folder: the checkpoint, which stays as it is.
        into: an empty folder.
        repo_id: the repository, which the card names.
        secrets: strings that must not be published.

    Returns:
        What may surprise whoever loads it.

    Raises:
        HubError: not a TanhMax checkpoint, a broken one, or one with a secret or a path of this machine.
    """
    config = _config(folder)
    for name in _weights(folder):
        _link(folder / name, into / name)
    copy(folder, into, (*MODEL, *PROCESSOR, *DOCUMENTS))
    wanted = auto_map(config["model_type"], config.get("architectures") or ())
    if config.get("auto_map") != wanted:
        write_json(into / CONFIG, {**config, "auto_map": wanted})
    if not (into / CODE_FILE).exists():
        (into / CODE_FILE).write_text(source(), encoding="utf-8")
    return _finish(folder, into, repo_id, secrets)


def stage_adapter(folder: Path, into: Path, *, repo_id: str, base_id: str, base: Path | None, secrets: Iterable[str] = ()) -> list[str]:
    """Gather what is published of a PEFT adapter, whose base will be found in the repository `base_id`.

    Args:
        folder: the adapter.
        into: an empty folder.
        repo_id: the repository of the adapter.
        base_id: the repository of its base.
        base: where the base is now, if it is on this machine; it is looked at for the card and not published here.
        secrets: strings that must not be published.

    Returns:
        What may surprise whoever loads it.

    Raises:
        HubError: a broken adapter, or one with a secret or a path of this machine.
    """
    _link(folder / ADAPTER_WEIGHTS, into / ADAPTER_WEIGHTS)
    copy(folder, into, (*PROCESSOR, *DOCUMENTS))
    config = read_json(folder / ADAPTER_CONFIG)
    local = str(config.get("base_model_name_or_path"))
    write_json(into / ADAPTER_CONFIG, {**config, "base_model_name_or_path": base_id})
    if (into / CARD).exists() and local != base_id:
        text = (into / CARD).read_text(encoding="utf-8")
        (into / CARD).write_text(with_base(text, local, base_id), encoding="utf-8")
    if base is not None:
        shutil.copytree(base, into / BASE, copy_function=_link)
    surprises = _finish(folder, into, repo_id, secrets)
    shutil.rmtree(into / BASE, ignore_errors=True)
    return surprises


def pin_base(into: Path, revision: str) -> None:
    """Let a staged adapter name the revision of its base."""
    write_json(into / ADAPTER_CONFIG, {**read_json(into / ADAPTER_CONFIG), "revision": revision})


def files_of(into: Path) -> Iterator[tuple[str, Path]]:
    """Path in the repository and place of every staged file."""
    for path in sorted(into.rglob("*")):
        if path.is_file():
            yield path.relative_to(into).as_posix(), path


def left_behind(folder: Path, into: Path) -> list[str]:
    """Names in a folder of which nothing is published."""
    return sorted(path.name for path in folder.iterdir() if not (into / path.name).exists())


def stale(published: Iterable[str], staged: Iterable[str]) -> list[str]:
    """Which files of a repository a push has to delete."""
    return sorted(path for path in set(published) - set(staged) if any(_fits(path, pattern) for pattern in REPLACED))


def read_json(path: Path) -> JsonObject:
    """A JSON object.

    Raises:
        HubError: unreadable, or something else.
    """
    try:
        return checkpoint.read_json(path)
    except CheckpointError as error:
        raise HubError(f"{error}: save the checkpoint anew") from error


def write_json(path: Path, content: JsonObject) -> None:
    """Write JSON as Transformers and PEFT do."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _config(folder: Path) -> JsonObject:
    if not (folder / CONFIG).is_file():
        unfinished = sorted(path.name for path in folder.glob("checkpoint-*") if (path / CONFIG).is_file())
        hint = f"publish {folder / unfinished[-1]}, or finish the training" if unfinished else "write one with save_pretrained"
        raise HubError(f"{folder} holds no checkpoint (no {CONFIG}): {hint}")
    config = read_json(folder / CONFIG)
    if upstream_type(config.get("model_type")) is None:
        if (kernel := kernel_of(config)) is not None:
            raise HubError(f"{folder} is no TanhMax checkpoint: it {forgotten(kernel)}")
        raise HubError(
            f"{folder} is no TanhMax checkpoint: its model type is {config.get('model_type')!r}, and not one such as 'tanhmax_bert'; "
            "turn it into one with hf_tanhmax.convert, train it, and save it"
        )
    return config


def _weights(folder: Path) -> list[str]:
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / INDEX).is_file():
        shards = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
        missing = [name for name in shards if not _fits(name, SHARDS) or not (folder / name).is_file()]
        if missing or not shards:
            raise HubError(f"{folder} lacks {', '.join(missing) or 'all weights'}, which {INDEX} should name: save the checkpoint anew")
        return [INDEX, *shards]
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl"))
    found = f"only {', '.join(pickled)}, which is never published as loading it can run code" if pickled else "no weights"
    raise HubError(f"{folder} has {found}: load the model and save it with save_pretrained, which writes {WEIGHTS}")


def _finish(folder: Path, into: Path, repo_id: str, secrets: Iterable[str]) -> list[str]:
    """Check the whole, and write what it has beside the model: a broken model has no card."""
    findings = check_checkpoint(into)
    if errors := errors_in(findings):
        raise HubError(f"{folder} cannot be published: " + "; ".join(f"{error.subject} {error.sentence}" for error in errors))
    write_documents(into, repo_id=repo_id)
    _refuse_private(folder, into, secrets)
    return [f"{finding.subject} {finding.sentence}" for finding in findings if finding.level == "warning"]


def _refuse_private(folder: Path, into: Path, secrets: Iterable[str]) -> None:
    for name, path in files_of(into):
        if path.suffix not in WRITTEN_BY_HAND or any(_fits(name, pattern) for pattern in PROCESSOR):
            continue
        text = path.read_text(encoding="utf-8")
        if any(secret in text for secret in secrets):
            raise HubError(f"{folder / name} holds your access token: take it out, and revoke it if others have seen it")
        if found := _path_in(text, folder) or (_path_among(json.loads(text)) if path.suffix == ".json" else None):
            raise HubError(f"{folder / name} names {found}, a path of one machine: take it out")


def _path_in(text: str, folder: Path) -> str | None:
    """A place of this machine, anywhere in a text."""
    places = (place for place in (Path.home(), folder.resolve().parent, Path.cwd()) if len(place.parts) > 1)
    found = (re.search(rf"(?<![\w./:-]){re.escape(str(place))}/[\w./-]*", text) for place in places)
    return next((match[0] for match in found if match), None)


def _path_among(value: object) -> str | None:
    """A path of any machine, as a whole value."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return next((found for item in inside if (found := _path_among(item))), None)
    return value if isinstance(value, str) and ABSOLUTE.fullmatch(value) else None


def copy(folder: Path, into: Path, patterns: Iterable[str]) -> None:
    """Copy the files that fit one of the patterns."""
    for pattern in patterns:
        for path in filter(Path.is_file, folder.glob(pattern)):
            target = into / path.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)


def _link(path: str | Path, target: str | Path) -> None:
    """The same contents without their size, where the system lets users make links."""
    try:
        Path(target).symlink_to(Path(path).resolve())
    except OSError:
        shutil.copyfile(path, target)


def _fits(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatchcase(path, pattern)
