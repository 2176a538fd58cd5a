"""Numbers over seeds."""

import pytest
from saved_models import result

from hf_tanhmax.cards.measured import health, mean_of, numbers
from hf_tanhmax.results import main_metric


def test_the_main_metric_of_the_test_rows_comes_first():
    rows = numbers([result(0, 0.80), result(1, 0.84)])
    assert rows == [
        ("test accuracy", "0.8200 ± 0.0283"),
        ("test f1", "0.8100 ± 0.0283"),
        ("validation accuracy", "0.8300 ± 0.0283"),
        ("train loss", "0.4000 ± 0.0000"),
    ]


def test_what_a_run_lacks_is_left_out():
    short = result(1)
    del short["metrics"]["test_f1"]
    short["metrics"]["train_loss"] = None
    assert [name for name, _ in numbers([result(0), short])] == ["test accuracy", "validation accuracy"]
    assert mean_of([result(0), short], "test_f1") is None
    assert mean_of([result(0, 0.5), result(1, 0.7)], "test_accuracy") == pytest.approx(0.6)


def test_perplexity_has_two_digits():
    run = result(metrics={"test_perplexity": 31.2345, "validation_perplexity": 30.0, "train_loss": 3.4}, main_metric="perplexity")
    assert numbers([run])[0] == ("test perplexity", "31.23")
    assert main_metric(run) == "perplexity"


def test_health():
    other = result(1, attention_health={"overall": {"negative_mass": 0.35, "weight_sum": 0.9}})
    assert health([result(0), other]) == {
        "negative_mass": "0.3000 ± 0.0707",
        "weight_sum": "0.8500 ± 0.0707",
        "negative_percent": "30.0",
    }
    assert health([result(attention_health=None)]) == {}


def test_learned_polarities():
    run = result(attention_health={"overall": {}, "polarity_per_head": [[0.01, 0.02], [0.03, 0.5]]})
    assert health([run]) == {"learned": "from 0.01 to 0.5, with a mean of 0.14"}
