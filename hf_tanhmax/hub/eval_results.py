"""Measured results in the form that the Hub shows on model pages and collects on leaderboards: `.eval_results/NAME.yaml`."""

from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

from ..cards import is_repository
from ..results import Run, main_metric, metric_of


def eval_results(run: Run) -> dict[str, str]:
    """The files, as path in the repository and contents.

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
