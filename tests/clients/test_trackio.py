"""trackio, which keeps a run's metrics in local files: what the Trainer logs of a TanhMax model, the polarity among it, arrives there."""

import pytest
import torch
from families import LENGTH, text
from tiny_checkpoints import save_softmax
from transformers import Trainer, TrainingArguments

import hf_tanhmax

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


def test_metrics_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path / "trackio")
    softmax = save_softmax(tmp_path / "softmax", "Qwen3ForCausalLM", "Qwen3")
    model = hf_tanhmax.convert(softmax, polarity=0.0)
    ids = text(8, LENGTH)
    arguments = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=4,
        per_device_train_batch_size=2,
        logging_steps=1,
        report_to="trackio",
        project="tanhmax-tests",
        run_name="annealed",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        save_strategy="no",
    )
    callback = hf_tanhmax.PolarityCallback(start=0.0, end=1.0, share=1.0)
    trainer = Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in ids], callbacks=[callback])
    trainer.train()
    rows = SQLiteStorage.get_logs("tanhmax-tests", "annealed")
    kept = [row for row in rows if "train/loss" in row]
    assert [row["train/loss"] for row in kept] == [row["loss"] for row in trainer.state.log_history if "loss" in row]
    print(kept)
    assert torch.tensor([row["train/polarity"] for row in kept]).diff().gt(0).all()
