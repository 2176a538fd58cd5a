"""What is said of a language model that conversion destroyed, before training and after it; and what is not said of one that it did not."""

import pytest

from hf_tanhmax.results import Conversion
from hf_tanhmax.training.configuration.recipe import read_recipes
from hf_tanhmax.training.conversion.check import FAR, start_and_end, warnings_about

CAUSAL = "llama/causal_lm"
ADVICE = "start again with recipes/llama/causal_lm/balanced.yaml or recipes/llama/causal_lm/aligned.yaml"


@pytest.fixture
def config(variant):
    return lambda name, *flags: read_recipes([variant(name, CAUSAL), "--model_name_or_path", "x", *flags])[0].config


def losses(softmax=None, converted=None, trained=None):
    known = {"softmax_loss": softmax, "converted_loss": converted, "trained_loss": trained}
    return Conversion(checked_rows=64, **{name: loss for name, loss in known.items() if loss is not None})


@pytest.mark.parametrize("known", [losses(), losses(0, FAR), losses(0, 0.5, FAR), losses(None, 0, FAR), losses(3, 2, 1)])
def test_a_loss_that_is_not_far_above_is_none_of_its_business(known, config):
    assert warnings_about(known, config("tanhmax")) == []


@pytest.mark.parametrize("lost", [3.7, float("nan"), float("inf")])
def test_a_destroyed_model_is_said_and_the_variant_to_use(lost, config):
    (said,) = warnings_about(losses(3, lost), config("tanhmax"))
    assert said.startswith(
        f"conversion destroyed this model: before training its loss on 64 validation rows is {lost:.2f} nats per token, and"
    )
    assert said.endswith(f"that of the softmax checkpoint 3.00; {ADVICE}, which keeps more of what it knew")
    before, after = warnings_about(losses(3, lost, lost), config("tanhmax"))
    assert before == said
    assert f"training did not make up for the conversion: the loss on 64 validation rows ended at {lost:.2f} nats" in after
    assert after.endswith(f"was 3.00 for the softmax checkpoint; {ADVICE}, which keeps more of what it knew")


def test_training_that_ends_far_above_its_start_is_said(config):
    (said,) = warnings_about(losses(None, 2, 2.7), config("annealed"))
    assert "ended at 2.70 nats per token, and was 2.00 before training" in said


def test_what_is_balanced_already_gets_other_advice(config):
    (said,) = warnings_about(losses(3, 4), config("balanced", "--polarity", "0.9"))
    assert said.endswith("; lower the polarity of the balanced shift (now 0.9), or calibrate as recipes/llama/causal_lm/aligned.yaml does")
    (said,) = warnings_about(losses(3, 4), config("aligned", "--polarity", "0.9"))
    assert said.endswith("; lower the polarity of the balanced shift (now 0.9)")


def test_start_and_end_are_one_sentence():
    said = start_and_end(losses(3, 3.5, 3.25))
    assert (
        said == "validation loss 3.500 nats per token before training (3.000 for the softmax checkpoint), 3.250 after it, lower, on 64 rows"
    )
    assert start_and_end(losses(None, 3, 4)) == "validation loss 3.000 nats per token before training, 4.000 after it, higher, on 64 rows"


def test_softmax_that_training_destroyed_is_said_too(config):
    (said,) = warnings_about(losses(None, 3, 4), config("softmax", "--learning_rate", "0.5"))
    assert said.startswith(
        "training made this model worse: the loss on 64 validation rows ended at 4.00 nats per token, and was 3.00 before"
    )
    assert said.endswith("; lower the learning rate (now 0.5), or train on more rows")
