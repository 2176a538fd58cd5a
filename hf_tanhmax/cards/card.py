"""`model_card`: the template, filled with everything that is known about a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..ablation import NegativesAblation, read_ablation
from ..checkpoint import RESULTS, Checkpoint, read_checkpoint, read_object
from ..choices import check_name
from ..conversion.report import ORIGINALS, read_report
from ..integration.summary import attention_summary, parts_summary, softmax_summary
from ..models.bundle import own_version
from ..package_data import data_folder
from ..processors import KINDS
from ..results import Run, check_runs
from . import measured, procedure, usage
from .metadata import metadata
from .text import code, escaped


def model_card(
    folder: str | Path,
    *,
    repo_id: str | None = None,
    results: Sequence[Run] | None = None,
    comparison: str | None = None,
    softmax: Sequence[Run] = (),
    base_model: str | None = None,
    license: str | None = None,  # noqa: A002 - the Hub's word
    language: str | list[str] | None = None,
) -> ModelCard:
    """The card of a TanhMax checkpoint, or of a PEFT adapter on one.

    Args:
        folder: holds the model, its processor and its figures.
        repo_id: its repository, which the code on the card loads from; without one the code is for the folder itself.
        results: what recipes.train wrote to results.json, one for each seed; None says that the checkpoint was not measured.
        comparison: a Markdown table of this model beside others, such as softmax.
        softmax: runs of softmax at the same budget on the same data, whose main metric the verdict names beside that of this model.
        base_model: the model on the Hub that it was made from; None is the one that the results name, if the Hub or its cache knows it.
        license: None is that of the base model, if its card says one.
        language: of the data; None is that of the base model, if its card says one.

    Raises:
        ValueError: no TanhMax model in the folder, a conversion.json or ablation.json that is none, names that no repository has, or
            results that are not of one model.
    """
    for key, name in (("repo_id", repo_id), ("base_model", base_model)):
        check_name(key, name)
    runs = [] if results is None else check_runs(results)
    folder = Path(folder)
    checkpoint = _read(folder)
    name = repo_id or folder.resolve().name
    data = metadata(checkpoint, runs, name=name.split("/")[-1], base_model=base_model, license=license, language=language)
    values = _values(checkpoint, runs, data, base_model, name, repo_id, comparison)
    values["verdict"] = measured.verdict(runs, list(softmax), read_ablation(folder)) if runs else None
    return ModelCard.from_template(data, template_str=_template(), **values)


def _read(folder: Path) -> Checkpoint:
    try:
        checkpoint = read_checkpoint(folder)
        _ = checkpoint.model_class  # which must be known
    except ValueError as error:
        raise ValueError(f"there is no TanhMax model in {folder} to write a card for: {error}") from error
    return checkpoint


def _template() -> str:
    return (data_folder("model_cards") / "template.md").read_text(encoding="utf-8")


def _values(
    checkpoint: Checkpoint,
    runs: list[Run],
    data: ModelCardData,
    base_model: str | None,
    name: str,
    repo_id: str | None,
    table: str | None,
) -> dict[str, Any]:
    """What the template names: text that is safe where it stands there, numbers already in words."""
    folder, model, is_adapter = Path(checkpoint.name), checkpoint.config, checkpoint.adapter is not None
    conversion, built, place = read_report(folder), checkpoint.built(), repo_id or "."
    seed = (read_object(folder / RESULTS) or {}).get("seed")
    config = runs[0].get("config", {}) if runs else {}
    return {
        "title": escaped(name.split("/")[-1]),
        "is_published": repo_id is not None,
        "model_class": None if checkpoint.model_class is None else checkpoint.model_class.__name__,
        "is_adapter": is_adapter,
        "adapter_base": None if checkpoint.base is None or checkpoint.base.is_local else code(checkpoint.base_name),
        "with_plugin": usage.with_plugin(checkpoint, place),
        "without_plugin": usage.without_plugin(checkpoint, place),
        "example": usage.example(runs, checkpoint, place),
        "call": None if checkpoint.processor_class is None else usage.call(checkpoint),
        "shows_weights": usage.shows_weights(checkpoint),
        "processor_noun": KINDS[checkpoint.modality].noun,
        "labels": [escaped(label) for label in checkpoint.labels],
        "settings": None if built is None else attention_summary(built),
        "parts": [] if built is None else parts_summary(built),
        "softmax_parts": [] if built is None else softmax_summary(built),
        "conversion": None if conversion is None else conversion.describe(),
        "originals": ORIGINALS if (folder / ORIGINALS).is_file() else None,
        "ablation": _ablation(read_ablation(folder)),
        "ablate_place": repo_id or ".",
        "is_softmax_so_far": model is not None and model.tanhmax_settings.polarity == 0,
        "is_balanced": model is not None and model.tanhmax_settings.shift == "balanced",
        "origin": _origin(runs, data, base_model),
        "licensed": escaped(data.license) if data.license else None,
        "runs": len(runs),
        "seeds": ", ".join(escaped(run["seed"]) for run in runs),
        "warnings": [escaped(sentence) for run in runs[:1] for sentence in run.get("conversion", {}).get("warnings", [])],
        "seed": None if seed is None else escaped(seed),
        "numbers": measured.numbers(runs) if runs else [],
        "comparison": table,
        "schedule": procedure.schedule(config),
        "health": measured.health(runs) if runs else {},
        "training": procedure.procedure(runs[0]) if runs else [],
        "configuration": procedure.configuration(runs[0]) if runs else "",
        "figures": [
            (escaped(path.stem.replace("_", " ")), path.relative_to(folder).as_posix()) for path in sorted(folder.glob("figures/*.png"))
        ],
        "version": own_version(),
    }


def _ablation(found: NegativesAblation | None) -> dict[str, str] | None:
    """What a card says of an ablation."""
    if found is None:
        return None
    data = found.settings.get("data")
    return {
        "verdict": found.verdict,
        "table": found.table(),
        "rows": f"{found.rows:,}",
        "data": code(data) if isinstance(data, str) else "",
    }


def _origin(runs: list[Run], data: ModelCardData, base_model: str | None) -> str | None:
    """The model that this one was made from, as a link only where the metadata name it too."""
    name = base_model or (runs[0].get("model", {}).get("base_model") if runs else None)
    if name is None:
        return None
    return f"[{escaped(name)}](https://huggingface.co/{name})" if data.base_model == name else code(name)
