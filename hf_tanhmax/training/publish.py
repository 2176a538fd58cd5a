"""Publishing a run: a model card beside the model, and a repository on the Hub."""

from pathlib import Path

from .. import hub
from ..cards import model_card
from ..errors import RecipeError
from ..results import Run, read_runs, settings_of
from .compare import comparison


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


def write_card(folder: Path, result: Run, gathered: Path | None) -> None:
    """Write README.md beside a TanhMax model; a softmax model has no need of a card that explains signed weights.

    Args:
        folder: of the run.
        result: of the run.
        gathered: the file of its variant, whose other seeds count too, among files of other variants to compare with; None for none.
    """
    if result["config"]["attention"] == "softmax":
        return
    runs = [run for run in read_runs(gathered) if settings_of(run) == settings_of(result)] if gathered else [result]
    model_card(folder, results=runs, comparison=beside(result, gathered)).save(folder / "README.md")


def beside(result: Run, gathered: Path | None) -> str | None:
    """A Markdown table of all variants on the same rows, from the files beside that of the run's variant; None if there is no other."""
    if gathered is None:
        return None
    found = [run for path in sorted(gathered.parent.glob(f"{result['recipe']}--*.json")) for run in read_runs(path)]
    same = [run for run in found if run["data"] == result["data"]]
    return comparison(same, markdown=True) if len({run["variant"] for run in same}) > 1 else None
