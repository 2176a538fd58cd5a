"""Publishing a run: a model card beside the model, and a repository on the Hub."""

from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizer, pipeline

from .. import hub
from ..cards import model_card
from ..errors import RecipeError
from ..results import Run, read_runs, settings_of
from .compare import comparison, same_rows
from .tasks import Task
from .tasks.task import Processor

EXAMPLE, MASKED_EXAMPLE = "Text to look at.", "Text to {mask} at."
# What a pipeline is asked for, by the last part of a task; of images a card would have to publish one that is somebody's.
PIPELINES: dict[str, tuple[str, dict[str, Any]]] = {
    "text_classification": ("text-classification", {}),
    "masked_lm": ("fill-mask", {"top_k": 1}),
    "causal_lm": ("text-generation", {"max_new_tokens": 8, "do_sample": False}),
}


def check_publishing(repo: str) -> None:
    """Find out before training whether a repository can be written to.

    Raises:
        RecipeError: not a name of a repository, no login, or no right to write there.
    """
    try:
        hub.check_login(repo)
    except hub.HubError as error:
        raise RecipeError(f"push_to_hub: {error}") from error


def publish(folder: Path, repo: str, *, private: bool) -> str:
    """Publish a run's folder; returns the address of the commit.

    Raises:
        RecipeError: the Hub refused or could not be reached; the run is on the disk and can be published later.
    """
    try:
        return hub.push(folder, repo, private=private)
    except hub.HubError as error:
        later = f"later: hf-tanhmax push {folder} {repo}"
        raise RecipeError(f"the run is complete in {folder}, but was not published: {error}; {later}") from error


def example_of(model: PreTrainedModel, task: Task, processor: Processor) -> dict[str, dict[str, str]]:
    """What a pipeline prints for a sentence of this package, for the card, as `example`; nothing for a task that is not in `PIPELINES`."""
    name, options = PIPELINES.get(task.config.task.rsplit("/", 1)[-1], (None, {}))
    if name is None:
        return {}
    tokenizer = cast(PreTrainedTokenizer, processor)
    given = MASKED_EXAMPLE.format(mask=tokenizer.mask_token) if name == "fill-mask" else EXAMPLE
    answers = pipeline(name, model=model, tokenizer=tokenizer)(given, **options)  # type: ignore[call-overload]
    short = [{key: round(value, 3) if isinstance(value, float) else value for key, value in answer.items()} for answer in answers]
    return {"example": {"input": given, "options": "".join(f", {key}={value}" for key, value in options.items()), "output": str(short)}}


def write_card(folder: Path, result: Run, gathered: Path | None, *, repo_id: str | None = None) -> None:
    """Write README.md beside a TanhMax model; a softmax model has no need of a card that explains signed weights.

    Args:
        folder: of the run.
        result: of the run.
        gathered: the file of its variant, whose other seeds count too, among files of other variants to compare with; None for none.
        repo_id: where it will be published, if it will.
    """
    if result["config"]["attention"] == "softmax":
        return
    runs = [run for run in read_runs(gathered) if settings_of(run) == settings_of(result)] if gathered else [result]
    same = _same_rows(result, gathered)
    softmax = [run for run in same if run["variant"] == "softmax"]
    softmax = [run for run in softmax if settings_of(run) == settings_of(softmax[-1])]
    made = model_card(folder, repo_id=repo_id, results=runs, comparison=beside(result, gathered), softmax=softmax)
    made.save(folder / "README.md")


def beside(result: Run, gathered: Path | None) -> str | None:
    """A Markdown table of all variants on the same rows, from the files beside that of the run's variant; None if there is no other."""
    same = _same_rows(result, gathered)
    return comparison(same, markdown=True) if len({run["variant"] for run in same}) > 1 else None


def _same_rows(result: Run, gathered: Path | None) -> list[Run]:
    """All runs of a recipe on the same rows, of all variants."""
    if gathered is None:
        return []
    found = [run for path in sorted(gathered.parent.glob(f"{result['recipe']}--*.json")) for run in read_runs(path)]
    return [run for run in found if same_rows(run, result)]
