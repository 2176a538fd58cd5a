"""Polarity over the steps: exact at both ends, the three schedules against their equations, and the callback under a real Trainer."""

import math

import pytest
import torch
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

from hf_tanhmax import TanhMaxBertConfig, TanhMaxBertForSequenceClassification
from hf_tanhmax.annealing import PolarityCallback, polarity_at

SIZES = {
    "vocab_size": 23,
    "hidden_size": 10,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 14,
    "max_position_embeddings": 13,
}
SCHEDULES = ("linear", "cosine", "geometric")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("start", "end", "share"), [(0.0, 1.0, 0.5), (0.2, 0.7, 1.0), (1.0, 0.0, 0.3)])
def test_both_ends_are_exact(schedule, start, end, share):
    values = [polarity_at(step, 31, start=start, end=end, schedule=schedule, share=share) for step in range(40)]
    assert values[0] == start
    assert all(value == end for step, value in enumerate(values) if step >= share * 31)
    assert all(0 <= value <= 1 for value in values)
    assert values == sorted(values, reverse=start > end)


def test_linear_is_half_way_in_the_middle():
    assert polarity_at(25, 100) == 0.5


def test_cosine_follows_its_equation():
    assert polarity_at(7, 100, schedule="cosine", share=0.5) == pytest.approx((1 - math.cos(math.pi * 7 / 50)) / 2, abs=1e-15)


def test_geometric_takes_equal_factors_from_its_floor():
    values = [polarity_at(step, 40, schedule="geometric", share=1.0) for step in (10, 20, 30)]
    assert values == pytest.approx([1e-3, 1e-2, 1e-1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"share": 0.0}, ValueError, r"share must be in \(0, 1\], but is 0.0"),
        ({"share": 1.5}, ValueError, "share must be in"),
        ({"schedule": "quadratic"}, ValueError, "unknown schedule 'quadratic'; there are linear, cosine, geometric"),
        ({"start": 1.5}, ValueError, r"polarity must be in \[0, 1\]"),
        ({"end": "learned"}, TypeError, "polarity must be a number"),
        ({"end": torch.ones(2)}, TypeError, "end must be a number"),
    ],
)
def test_wrong_settings_are_refused_by_function_and_callback(arguments, error, message):
    with pytest.raises(error, match=message):
        polarity_at(0, 10, **arguments)
    with pytest.raises(error, match=message):
        PolarityCallback(**arguments)


@pytest.mark.parametrize(("step", "total"), [(-1, 10), (0, 0)])
def test_steps_outside_the_training_are_refused(step, total):
    with pytest.raises(ValueError, match="a polarity needs a step of at least 0 and a total of at least 1"):
        polarity_at(step, total)


class Recorder(PolarityCallback):
    """Notes the polarity that each step is taken with."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.seen = []

    def on_step_begin(self, args, state, *rest, **kwargs):
        super().on_step_begin(args, state, *rest, **kwargs)
        config = kwargs["model"].config
        self.seen.append((state.global_step, config.tanhmax_polarity))


def trainer_for(model, folder, callback):
    rows = [{"input_ids": torch.arange(7) + shift, "labels": torch.tensor(shift % 2)} for shift in range(12)]
    arguments = TrainingArguments(
        str(folder),
        max_steps=7,
        per_device_train_batch_size=3,
        save_steps=3,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    return Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[callback])


def annealed_model(**settings):
    return TanhMaxBertForSequenceClassification(TanhMaxBertConfig(**SIZES, **settings))


def test_the_callback_anneals_logs_saves_and_resumes(tmp_path, caplog):
    settings = {"start": 0.0, "end": 1.0, "schedule": "linear", "share": 1.0}
    whole = Recorder(**settings)
    trainer = trainer_for(annealed_model(tanhmax_polarity=0.3), tmp_path, whole)
    trainer.train()
    assert whole.seen == [(step, step / 7) for step in range(7)]
    assert trainer.model.config.tanhmax_polarity == 1.0
    assert [record["polarity"] for record in trainer.state.log_history if "loss" in record] == [step / 7 for step in range(1, 8)]
    saved = {step: TanhMaxBertConfig.from_pretrained(tmp_path / f"checkpoint-{step}").tanhmax_polarity for step in (3, 6, 7)}
    assert saved == {3: 3 / 7, 6: 6 / 7, 7: 1.0}

    resumed = Recorder(**settings)
    again = trainer_for(annealed_model(tanhmax_polarity=0.3), tmp_path, resumed)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.seen == whole.seen[3:]
    assert again.model.config.tanhmax_polarity == 1.0
    assert "PEFT" not in caplog.text


def test_a_learned_polarity_is_not_annealed(tmp_path):
    trainer = trainer_for(annealed_model(tanhmax_polarity="learned"), tmp_path, PolarityCallback())
    with pytest.raises(ValueError, match="is learned, one score bias per head; it cannot be set"):
        trainer.train()


def test_a_softmax_model_is_not_annealed(tmp_path):
    model = BertForSequenceClassification(BertForSequenceClassification.config_class(**SIZES))
    with pytest.raises(ValueError, match="computes no TanhMax, so it has no polarity to set"):
        trainer_for(model, tmp_path, PolarityCallback()).train()
