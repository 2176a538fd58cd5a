"""Every task from end to end, and what all of them share."""

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoModelForMaskedLM
from transformers.trainer_utils import PredictionOutput

from hf_tanhmax.training.configuration.schema import CONFIGS
from hf_tanhmax.training.data.rows import Splits
from hf_tanhmax.training.tasks import MODULES
from hf_tanhmax.training.tasks.task import first

HEADS = {"bert/masked_lm": AutoModelForMaskedLM, "vit/image_classification": AutoModelForImageClassification}


def test_every_task_has_a_module():
    assert MODULES.keys() == CONFIGS.keys()


@pytest.mark.parametrize("task", [task for task in CONFIGS if task != "bert/text_classification"])
def test_a_task_runs_from_end_to_end(task, train, tmp_path):
    code, said, results = train("annealed", task=task)
    assert code == 0, said
    metrics = results["metrics"]
    assert metrics["reload_difference"] == 0
    assert metrics[f"test_{results['main_metric']}"] > 0
    rows, outcomes = results["data"]["rows"]["test"], len(results["outcomes"]["test"].split())
    assert outcomes > rows if task == "llama/causal_lm" else outcomes == rows  # documents longer than a packed row
    assert results["polarity_curve"][-1] == [9, 1.0]
    assert [point["step"] for point in results["health_curve"]] == list(range(10))
    assert results["health_curve"][0]["overall"]["negative_mass"] == 0
    assert results["health_curve"][0]["overall"]["output_norm"] == pytest.approx(1)
    assert results["health_curve"][-1]["overall"]["negative_mass"] > 0
    model = HEADS.get(task, AutoModelForCausalLM).from_pretrained(tmp_path / "run")
    assert type(model).__name__ == results["model"]["class"]
    assert model.config.tanhmax_polarity == 1.0
    assert getattr(model.config, "use_cache", True), "the Trainer's use_cache: false is no property of the model"
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} == {"training.png", "health.png"}


@pytest.mark.parametrize("task", CONFIGS)
def test_the_main_metric_is_reported(task, task_of):
    made = task_of(task)
    assert made.main_metric in made.reported
    assert made.config.task == task


@pytest.mark.parametrize("task", ["bert/text_classification", "vit/image_classification"])
def test_classifiers_name_their_classes_and_tell_right_from_wrong_by_row(task, task_of):
    made, splits = task_of(task), Splits(None, None, None, ["no", "yes"], {})
    assert made.head(splits) == {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    logits, labels = np.array([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]]), np.array([1, 1, 1])
    assert made.outcomes(PredictionOutput(logits, labels, None)) == [1.0, 0.0, 1.0]
    assert made.metrics(splits)(PredictionOutput(logits, labels, None))["accuracy"] == pytest.approx(2 / 3)


def test_lengths_and_logits_however_wrapped(task_of):
    made = task_of("llama/sft")
    assert made.lengths(Dataset.from_dict({"input_ids": [[1, 2, 3], [1]]})) == [3, 1]
    assert made.lengths(Dataset.from_dict({"other": [[1, 2, 3], [1]]})) == [1, 1]
    assert first(("logits", "hidden states")) == first("logits") == "logits"
