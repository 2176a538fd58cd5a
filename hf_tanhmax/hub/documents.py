"""Files that are published beside a model: a card that loads it from its repository, and evaluation results in the Hub's format."""

import re
from pathlib import Path

from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

from ..cards import is_repository, model_card
from ..cards.text import escaped
from ..checkpoint import RESULTS, read_object
from ..results import Run, check_runs, main_metric, metric_of
from .errors import HubError

CARD = "README.md"
# What PEFT writes beside every adapter is a form that somebody has to fill in.
FORM = "# Model Card for Model ID"
# What a card says that was written before its model had a repository.
PLACE, PIPELINE, ABLATE, UNPUBLISHED = (
    'name = "."',
    'model=".")(',
    "hf-tanhmax ablate {} DATA",
    re.compile(r"The code is for a process that runs in this folder;[^\n]*\n\n"),
)


def write_documents(into: Path, *, repo_id: str) -> None:
    """Write the card and the evaluation results that a staged folder lacks, and let a card load the model from its repository.

    Raises:
        HubError: results that are none, or of another model.
    """
    runs: list[Run] | None = None
    if (into / RESULTS).is_file():
        try:
            runs = check_runs([read_object(into / RESULTS)])
        except ValueError as error:
            raise HubError(f"{RESULTS} is not what recipes.train writes ({error}): move it elsewhere") from error
    card = (into / CARD).read_text(encoding="utf-8") if (into / CARD).is_file() else FORM
    written = str(model_card(into, repo_id=repo_id, results=runs)) if FORM in card else _addressed(card, repo_id)
    if written != card:
        (into / CARD).write_text(written, encoding="utf-8")
    for path, content in eval_results(runs[0]).items() if runs else ():
        if not (into / path).exists():
            (into / path).parent.mkdir(exist_ok=True)
            (into / path).write_text(content, encoding="utf-8")


def eval_results(run: Run) -> dict[str, str]:
    """Measured results as the Hub shows and collects them, `.eval_results/NAME.yaml`: path in the repository and contents.

    There is one for a test metric that was measured on a data set of the Hub, and none otherwise: an entry has to name a data set, and
    numbers on training or validation rows do not belong on a leaderboard.

    Args:
        run: the contents of a run's results.json.
    """
    dataset, metric = run.get("data", {}).get("source", ""), main_metric(run)
    value = metric_of(run, f"test_{metric}")
    if value is None or not is_repository(dataset):
        return {}
    notes = f"{metric}, {run['attention']}, seed {run['seed']}"
    entry = EvalResultEntry(dataset_id=dataset, task_id="default", value=value, notes=notes)
    return {f".eval_results/{dataset.split('/')[-1]}.yaml": yaml_dump(eval_result_entries_to_yaml([entry]))}


def with_base(card: str, local: str, repo_id: str) -> str:
    """A card whose base model was a folder: its repository instead, in the metadata and, if it reads like a path, in the text."""
    tag = rf"^(base_model:|- base_model:adapter:)(\s*){re.escape(local)}$"
    card = re.sub(tag, rf"\g<1>\g<2>{repo_id}", card, flags=re.MULTILINE)
    for written in {local, escaped(local)} if "/" in local else ():
        card = re.sub(rf"(?<![\w/.-]){re.escape(written)}(?![\w/-])", repo_id, card)
    return card


def _addressed(card: str, repo_id: str) -> str:
    places = {PLACE: f'name = "{repo_id}"', PIPELINE: f'model="{repo_id}")(', ABLATE.format("."): ABLATE.format(repo_id)}
    card = UNPUBLISHED.sub("", card)
    for place, address in places.items():
        card = card.replace(place, address)
    return card
