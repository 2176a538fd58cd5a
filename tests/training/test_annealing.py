"""Polarity over the steps: exact at both ends, the three schedules against their equations, and the callback under a real Trainer."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from hf_tanhmax import TanhMaxBertConfig, TanhMaxBertForSequenceClassification, TanhMaxSettings, set_polarity, use_tanhmax
from hf_tanhmax.integration.registration import SCORE_BIAS
from hf_tanhmax.training.annealing import PolarityCallback, polarity_at

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


def trainer_for(model, folder, *callbacks, scores=(), **changes):
    """A Trainer of seven steps; with scores, one that finds them, one an evaluation, from step 1 on."""
    rows = [{"input_ids": torch.arange(7) + shift, "labels": torch.tensor(shift % 2)} for shift in range(12)]
    arguments = {
        "max_steps": 7,
        "per_device_train_batch_size": 3,
        "save_steps": 3,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    if scores:
        remaining = iter(scores)
        arguments |= {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "learning_rate": 0.05, "metric_for_best_model": "score"}
        changes = {"load_best_model_at_end": True, "greater_is_better": True, **changes}
    return Trainer(
        model=None if "model_init" in changes else model,
        model_init=changes.pop("model_init", None),
        args=TrainingArguments(str(folder), **(arguments | changes)),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=(lambda _: {"score": next(remaining, 0)}) if scores else None,
        callbacks=list(callbacks),
    )


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


# What the Trainer loads back

WHOLE_WAY = {"start": 0.0, "end": 1.0, "share": 1.0}  # polarity n / 7 after step n
BEST_IS_SECOND = (1, 3, 2, 1, 1, 1, 1)


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(14).reshape(2, 7)).logits


def assert_is(model, folder):
    """The model is what anybody loads from a folder: its polarity, and its logits to the bit."""
    again = TanhMaxBertForSequenceClassification.from_pretrained(folder)
    assert model.config.tanhmax_polarity == again.config.tanhmax_polarity
    assert torch.equal(logits_of(model), logits_of(again))


@pytest.mark.parametrize("limit", [None, 1])
def test_the_best_checkpoint_comes_back_with_its_polarity(limit, tmp_path, caplog):
    trainer = trainer_for(annealed_model(), tmp_path, PolarityCallback(**WHOLE_WAY), scores=BEST_IS_SECOND, save_total_limit=limit)
    trainer.train()
    best = str(tmp_path / "checkpoint-2")
    assert trainer.state.best_model_checkpoint == best
    assert trainer.model.config.tanhmax_polarity == 2 / 7
    assert_is(trainer.model, best)
    assert f"the polarity is 0.285714 now, and not 1, with which the schedule ends: {best} was loaded back, as the best" in caplog.text
    trainer.save_model(tmp_path / "saved")
    assert_is(trainer.model, tmp_path / "saved")
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == (
        ["checkpoint-2"] if limit else [f"checkpoint-{n}" for n in range(1, 8)]
    )


def test_what_is_logged_after_the_best_came_back_is_its_polarity(tmp_path):
    trainer = trainer_for(annealed_model(), tmp_path, PolarityCallback(**WHOLE_WAY), scores=BEST_IS_SECOND)
    trainer.train()
    assert [record["polarity"] for record in trainer.state.log_history if "eval_score" in record] == [step / 7 for step in range(1, 8)]
    trainer.evaluate()
    assert trainer.state.log_history[-1]["polarity"] == 2 / 7


@pytest.mark.parametrize(("settings", "logged"), [({"tanhmax_polarity": 0.3}, 0.3), ({"tanhmax_polarity": "learned"}, None)])
def test_an_evaluation_before_training(settings, logged, tmp_path):
    trainer = trainer_for(annealed_model(**settings), tmp_path, PolarityCallback())
    trainer.evaluate()
    assert trainer.state.log_history[-1].get("polarity") == logged


def test_the_last_checkpoint_is_the_best(tmp_path, caplog):
    trainer = trainer_for(annealed_model(), tmp_path, PolarityCallback(**WHOLE_WAY), scores=range(1, 8))
    trainer.train()
    assert trainer.model.config.tanhmax_polarity == 1.0
    assert "the polarity is" not in caplog.text


def test_a_checkpoint_holds_what_its_config_says(tmp_path):
    """Not what the schedule of this run would have had at its step."""

    class Meddler(PolarityCallback):
        def on_step_end(self, args, state, control, **kwargs):
            set_polarity(kwargs["model"], 0.125 if state.global_step == 2 else 0.5)

    trainer = trainer_for(annealed_model(), tmp_path, Meddler(**WHOLE_WAY), scores=BEST_IS_SECOND)
    trainer.train()
    assert trainer.model.config.tanhmax_polarity == 0.125
    assert_is(trainer.model, tmp_path / "checkpoint-2")


@pytest.mark.parametrize(("scores", "best"), [((3, 2, 1), 2), ((1, 2, 3), 6)], ids=["before", "after"])
def test_resuming_with_the_best_before_or_after(scores, best, tmp_path):
    """Steps 2 and 4 are of the first run, 6 of the second."""
    changes = {"eval_steps": 2, "save_steps": 2}
    trainer_for(annealed_model(), tmp_path, PolarityCallback(**WHOLE_WAY), scores=scores, **changes).train()
    shutil.rmtree(tmp_path / "checkpoint-6")
    again = trainer_for(annealed_model(tanhmax_polarity=0.9), tmp_path, PolarityCallback(**WHOLE_WAY), scores=scores[2:], **changes)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert again.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert again.model.config.tanhmax_polarity == best / 7
    assert_is(again.model, tmp_path / f"checkpoint-{best}")


def test_a_best_checkpoint_that_is_gone_is_not_loaded_and_changes_no_polarity(tmp_path):
    trainer_for(annealed_model(), tmp_path, PolarityCallback(**WHOLE_WAY), scores=BEST_IS_SECOND).train()
    shutil.rmtree(tmp_path / "checkpoint-2")
    again = trainer_for(annealed_model(), tmp_path, PolarityCallback(**WHOLE_WAY), scores=(1, 1))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert again.model.config.tanhmax_polarity == 1.0
    assert_is(again.model, tmp_path / "checkpoint-7")


def test_early_stopping_leaves_the_polarity_that_was_trained_and_evaluated(tmp_path, caplog):
    patience = EarlyStoppingCallback(early_stopping_patience=2)
    changes = {"scores": BEST_IS_SECOND, "load_best_model_at_end": False}
    trainer = trainer_for(annealed_model(), tmp_path, PolarityCallback(**WHOLE_WAY), patience, **changes)
    trainer.train()
    assert trainer.state.global_step == 4
    assert trainer.model.config.tanhmax_polarity == 4 / 7
    assert [record["polarity"] for record in trainer.state.log_history if "eval_score" in record][-1] == 4 / 7
    assert_is(trainer.model, tmp_path / "checkpoint-4")
    assert "the polarity is 0.571429 now, and not 1, with which the schedule ends: steps taken are 4 of 7" in caplog.text


def test_early_stopping_with_the_best_loaded_back(tmp_path):
    patience = EarlyStoppingCallback(early_stopping_patience=2)
    trainer = trainer_for(annealed_model(), tmp_path, PolarityCallback(**WHOLE_WAY), patience, scores=BEST_IS_SECOND)
    trainer.train()
    assert trainer.state.global_step == 4
    assert_is(trainer.model, tmp_path / "checkpoint-2")


def test_weights_that_are_not_safetensors(tmp_path):
    class Pickler(PolarityCallback):
        def on_save(self, args, state, *rest, **kwargs):
            path = Path(args.output_dir, f"checkpoint-{state.global_step}", "model.safetensors")
            torch.save(load_file(path), path.with_name("pytorch_model.bin"))
            path.unlink()

    trainer = trainer_for(annealed_model(), tmp_path, Pickler(**WHOLE_WAY), scores=BEST_IS_SECOND)
    trainer.train()
    assert {path.name for path in (tmp_path / "checkpoint-2").glob("*model.*")} == {"pytorch_model.bin"}
    assert_is(trainer.model, tmp_path / "checkpoint-2")


def test_a_patched_model_has_the_polarity_of_the_step_that_was_loaded(tmp_path):
    """Its config.json knows no polarity. The best step has no checkpoint of its own, so an earlier one is loaded."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertForSequenceClassification.config_class(**SIZES))
    use_tanhmax(model, TanhMaxSettings(polarity=0.0))
    trainer = trainer_for(model, tmp_path, PolarityCallback(**WHOLE_WAY), scores=(1, 2, 3, 1, 1, 1, 1), save_steps=2)
    trainer.train()
    assert (trainer.state.best_global_step, Path(trainer.state.best_model_checkpoint).name) == (3, "checkpoint-2")
    again = BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-2")
    use_tanhmax(again, TanhMaxSettings(polarity=2 / 7))
    assert torch.equal(logits_of(model), logits_of(again))


def test_a_learned_polarity_is_a_weight_and_comes_back_as_one(tmp_path):
    trainer = trainer_for(annealed_model(tanhmax_polarity="learned"), tmp_path, scores=BEST_IS_SECOND)
    trainer.train()
    assert_is(trainer.model, tmp_path / "checkpoint-2")
    biases = [
        [value for name, value in load_file(path).items() if name.endswith(SCORE_BIAS)]
        for path in tmp_path.glob("checkpoint-[27]/*.safetensors")
    ]
    assert not torch.equal(torch.cat(biases[0]), torch.cat(biases[1]))


def test_a_model_made_anew_for_every_training_starts_at_the_start(tmp_path):
    """`model_init`, as a hyperparameter search uses it."""
    recorder = Recorder(**WHOLE_WAY)
    trainer = trainer_for(None, tmp_path, recorder, scores=BEST_IS_SECOND * 2, model_init=lambda: annealed_model())
    for _ in range(2):
        trainer.train()
        assert_is(trainer.model, tmp_path / "checkpoint-2")
    assert recorder.seen == [(step, step / 7) for step in range(7)] * 2


def test_a_polarity_that_a_callback_of_ones_own_sets_is_not_loaded_back(tmp_path):
    """Nothing tells the package that weights were; the README says what to do."""

    class Setter(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            set_polarity(kwargs["model"], state.global_step / 7)

    trainer = trainer_for(annealed_model(), tmp_path, Setter(), scores=BEST_IS_SECOND)
    trainer.train()
    assert trainer.model.config.tanhmax_polarity == 1.0
    assert TanhMaxBertConfig.from_pretrained(tmp_path / "checkpoint-2").tanhmax_polarity == 2 / 7


def test_the_best_checkpoint_is_what_is_pushed(tmp_path, hub_here):
    changes = {"push_to_hub": True, "hub_model_id": "owner/annealed", "scores": BEST_IS_SECOND}
    trainer = trainer_for(annealed_model(), tmp_path, PolarityCallback(**WHOLE_WAY), **changes)
    trainer.train()
    trainer.push_to_hub()
    assert_is(trainer.model, tmp_path / "checkpoint-2")
    assert_is(trainer.model, "owner/annealed")
