"""The YAML header of a model card, by which the Hub sorts, filters and links models. What is not known is left out, never guessed."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from ..checkpoint import CONFIG, Checkpoint
from ..choices import can_be_repository
from ..results import Data, Model, Run, main_metric
from .measured import SPLITS, mean_of
from .procedure import EMBEDDED, FILES

# Metrics that have a page on the Hub, and how they are written.
METRICS = {"accuracy": "Accuracy", "f1": "F1", "perplexity": "Perplexity"}
LICENSE_KEYS = ("license", "license_name", "license_link")


def metadata(
    checkpoint: Checkpoint,
    runs: Sequence[Run],
    *,
    name: str,
    base_model: str | None,
    license: str | None,  # noqa: A002 - the Hub's word
    language: str | list[str] | None,
) -> ModelCardData:
    """All that is known of a checkpoint and its runs, in the Hub's fields.

    Args:
        checkpoint: as its folder has it.
        runs: results of its recipe; none for a checkpoint that nobody measured.
        name: of the model, in the model index.
        base_model: as the caller gave it.
        license: as the caller gave it; None takes that of the base model, if its card says one.
        language: as the caller gave it; None takes that of the base model, if its card says one.
    """
    origin = base_model or _origin(runs)
    told = base_model is not None and license is not None and language is not None
    known = None if origin is None or told else _base_card(origin)
    licensed = {"license": license} if license else {} if known is None else {key: known.get(key) for key in LICENSE_KEYS}
    is_adapter = checkpoint.adapter is not None
    base = checkpoint.base_name or (origin if base_model or known is not None else None)
    relation = "adapter" if is_adapter else "finetune" if runs else None
    data_set = None if not runs else dataset_on_hub(runs[0])
    measured = _eval_results(checkpoint, runs)
    return ModelCardData(
        base_model=base,
        base_model_relation=relation if base else None,
        datasets=[data_set] if data_set else None,
        language=language or (None if known is None else known.get("language")),
        library_name="peft" if is_adapter else "transformers",
        metrics=sorted({result.metric_type for result in measured}) or None,
        model_name=name if measured else None,
        eval_results=measured or None,
        pipeline_tag=checkpoint.pipeline,
        tags=["tanhmax", *([] if is_adapter else ["custom_code"]), *([checkpoint.family] if checkpoint.family else [])],
        **licensed,
    )


def is_repository(name: object) -> bool:
    """Whether a name could be one on the Hub and is nothing on this disk."""
    if not isinstance(name, str) or name in (*EMBEDDED, FILES) or Path(name).exists():
        return False
    return can_be_repository(name)


def dataset_on_hub(run: Run) -> str | None:
    """The name on the Hub of a run's data: where they came from, or what its files are said to hold; None where neither is known."""
    data = run.get("data", {})
    name = data.get("dataset") or data.get("source")
    return name if is_repository(name) else None


def _origin(runs: Sequence[Run]) -> str | None:
    """The name of the base model, if it may be one on the Hub: the last two parts of a folder look like one."""
    model: Model = runs[0].get("model", {}) if runs else {}
    name = model.get("base_model")
    return name if not model.get("base_is_folder") and is_repository(name) else None


def _base_card(name: str) -> ModelCardData | None:
    """The metadata of a base model's card; empty if it has none, and None if neither the Hub nor the cache knows the model.

    `folder/name` on another machine looks like `owner/name` on the Hub, so a name alone is not enough to link to.
    """
    try:
        return ModelCard.load(Path(hf_hub_download(name, "README.md"))).data
    except (OSError, EntryNotFoundError, ValueError):
        return ModelCardData() if Checkpoint(name).file(CONFIG) else None


def _eval_results(checkpoint: Checkpoint, runs: Sequence[Run]) -> list[EvalResult]:
    """The metrics of the test rows, or of the validation rows where there are no others; none where the data have no name on the Hub.

    A result has to name a data set there. Of files it is not known which of its splits they were.
    """
    data_set = dataset_on_hub(runs[0]) if runs else None
    if data_set is None or checkpoint.pipeline is None:
        return []
    split = next((split for split in SPLITS if mean_of(runs, f"{split}_{main_metric(runs[0])}") is not None), None)
    if split is None:
        return []
    data: Data = runs[0].get("data", {})
    seeds = "" if len(runs) == 1 else f", mean of {len(runs)} seeds"
    return [
        EvalResult(
            task_type=checkpoint.pipeline,
            dataset_type=data_set,
            dataset_name=data_set,
            dataset_config=data.get("config"),
            dataset_split=None if data.get("source") == FILES else split,
            metric_type=metric,
            metric_name=f"{words} on the {split} rows{seeds}",
            metric_value=round(value, 6),
        )
        for metric, words in METRICS.items()
        if (value := mean_of(runs, f"{split}_{metric}")) is not None
    ]
