"""Every task from end to end, and what all of them share."""

import pytest
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoModelForMaskedLM

from hf_tanhmax.training.configuration.schema import CONFIGS
from hf_tanhmax.training.tasks import MODULES

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
