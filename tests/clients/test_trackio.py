"""trackio, which keeps a run's metrics in local files: what is logged of a TanhMax model, the polarity among it, arrives there."""

import pytest
from families import LENGTH, text
from tiny_checkpoints import save_softmax
from tiny_runs import train, variant  # noqa: F401
from transformers import Trainer, TrainingArguments
from transformers.integrations import TrackioCallback

import hf_tanhmax

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning", "ignore::UserWarning"),
]


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A function that reads the metrics of a project's runs, from a folder of their own."""
    pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio import sqlite_storage, utils

    for module in (utils, sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")

    def read(project):
        storage = sqlite_storage.SQLiteStorage
        return [row for run in storage.get_runs(project) for row in storage.get_logs(project, run)]

    return read


def trained(tmp_path, project, report_to, *callbacks):
    model = hf_tanhmax.convert(save_softmax(tmp_path / "softmax", "Qwen3ForCausalLM", "Qwen3"), polarity=0.0)
    arguments = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=4,
        per_device_train_batch_size=2,
        logging_steps=1,
        report_to=report_to,
        project=project,
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        save_strategy="no",
    )
    rows = [{"input_ids": row, "labels": row} for row in text(8, LENGTH)]
    trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[hf_tanhmax.PolarityCallback(share=1.0), *callbacks])
    trainer.train()
    return trainer


def test_a_trainer_that_is_told_to_report(stored, tmp_path):
    trainer = trained(tmp_path, "told", "trackio")
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert [row["train/loss"] for row in stored("told") if "train/loss" in row] == losses
    assert len(losses) == 4


def test_a_reporter_behind_the_polarity(stored, tmp_path):
    trained(tmp_path, "behind", "none", TrackioCallback())
    assert [row["train/polarity"] for row in stored("behind") if "train/loss" in row] == [0.25, 0.5, 0.75, 1.0]


def test_a_recipe(train, stored):  # noqa: F811
    code, printed, result = train("annealed", "--report_to", "trackio")
    assert code == 0, printed
    rows = stored("huggingface")
    polarities = [row["train/polarity"] for row in rows if "train/loss" in row]
    assert polarities == sorted(polarities)
    assert polarities[0] < polarities[-1] == 1.0
    assert result["metrics"]["steps"] == len(polarities)
