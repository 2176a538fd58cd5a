"""`model_card`: the template, filled with everything that is known about a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..ablation import NegativesAblation, read_ablation
from ..checkpoint import RESULTS, Checkpoint, read_checkpoint, read_object
from ..choices import check_name
from ..conversion.report import ORIGINALS, read_report
from ..models.bundle import own_version
from ..package_data import data_folder
from ..results import Run, check_runs
from . import measured, procedure
from .metadata import metadata
from .text import code, escaped

# What peft has an Auto class for; the others are loaded in two steps.
PEFT_CLASSES = ("SequenceClassification", "CausalLM", "TokenClassification", "QuestionAnswering")


def model_card(
    folder: str | Path,
    *,
    repo_id: str | None = None,
    results: Sequence[Run] | None = None,
    comparison: str | None = None,
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
        base_model: the model on the Hub that it was made from; None is the one that the results name, if the Hub or its cache knows it.
        license: None is that of the base model, if its card says one.
        language: of the data; left out if None.

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
    return ModelCard.from_template(data, template_str=_template(), **_values(checkpoint, runs, data, base_model, name, repo_id, comparison))


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
    stem, conversion = checkpoint.auto_class.removeprefix("AutoModelFor"), read_report(folder)
    seed = (read_object(folder / RESULTS) or {}).get("seed")
    config = runs[0].get("config", {}) if runs else {}
    return {
        "title": escaped(name.split("/")[-1]),
        "place": f'"{repo_id or "."}"',
        "is_published": repo_id is not None,
        "model_class": None if checkpoint.model_class is None else checkpoint.model_class.__name__,
        "auto_class": checkpoint.auto_class,
        "peft_class": f"AutoPeftModelFor{stem}" if is_adapter and stem in PEFT_CLASSES else None,
        "is_adapter": is_adapter,
        "adapter_base": None if checkpoint.base is None or checkpoint.base.is_local else code(checkpoint.base_name),
        "processor": checkpoint.processor_class,
        "takes_images": checkpoint.family == "vit",
        "generates": checkpoint.auto_class == "AutoModelForCausalLM",
        "task": checkpoint.pipeline,
        "labels": [escaped(label) for label in checkpoint.labels],
        "settings": None if model is None else model.tanhmax_settings.describe(layers=getattr(model, "num_hidden_layers", None)),
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
