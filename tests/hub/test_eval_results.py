"""Evaluation results as the Hub reads them."""

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from hf_tanhmax.hub.eval_results import eval_results

RESULTS = {
    "main_metric": "accuracy",
    "attention": "TanhMax, polarity 1",
    "seed": 3,
    "data": {"source": "stanfordnlp/sst2"},
    "metrics": {"test_accuracy": 0.75, "validation_accuracy": 0.8},
}


def test_a_test_metric_on_a_data_set_of_the_hub():
    ((path, text),) = eval_results(RESULTS).items()
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert path == ".eval_results/sst2.yaml"
    assert (entry.dataset_id, entry.value, entry.notes) == ("stanfordnlp/sst2", 0.75, "accuracy, TanhMax, polarity 1, seed 3")


@pytest.mark.parametrize("change", [{"data": {"source": "files"}}, {"data": {"source": "synthetic"}}, {"data": {}}, {"main_metric": "f1"}])
def test_nothing_else_is_an_entry(change):
    assert eval_results(RESULTS | change) == {}
