"""Where a model may start from: softmax and TanhMax checkpoints, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from families import tiny_model
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_tanhmax.training.model import freeze


@pytest.fixture
def train_checkpoint(checkpoint, train):
    """A tiny run that starts from the softmax checkpoint, or from another one."""
    return lambda name, *flags, start=checkpoint, **options: train(name, "--model_name_or_path", start, *flags, **options)


@pytest.mark.slow
def test_a_softmax_checkpoint_becomes_tanhmax_and_stays_softmax_at_polarity_0(train_checkpoint, checkpoint, tmp_path):
    code, said, results = train_checkpoint("tanhmax", "--polarity", "0", "--dropout", "0", folder="zero")
    assert code == 0, said
    assert results["attention_health"]["overall"]["negative_mass"] == 0
    _, _, softmax = train_checkpoint("softmax", "--dropout", "0", folder="softmax")
    curves = [torch.tensor(result["metrics"]["train_loss_curve"]) for result in (results, softmax)]
    torch.testing.assert_close(*curves, rtol=0, atol=1e-5)
    assert type(AutoModelForSequenceClassification.from_pretrained(tmp_path / "zero")).__name__ == "TanhMaxBertForSequenceClassification"


@pytest.mark.slow
def test_a_tanhmax_checkpoint_is_continued_and_never_trained_as_softmax(train_checkpoint, tmp_path):
    train_checkpoint("tanhmax", folder="first")
    first = str(tmp_path / "first")
    code, said, results = train_checkpoint("tanhmax", start=first, folder="second")
    assert code == 0, said
    assert results["attention_health"]["overall"]["weight_sum"] < 1
    code, said, _ = train_checkpoint("softmax", start=first, folder="third")
    assert code == 2
    assert "is a TanhMax checkpoint, but the recipe says attention: softmax" in said
    code, said, _ = train_checkpoint("learned", start=first, folder="fourth")
    assert code == 2
    assert "is a number, but that of the recipe is learned" in said
    code, said, _ = train_checkpoint("tanhmax", "--layers", "0", start=first, folder="fifth")
    assert code == 2
    assert "layers of" in said
    code, said, _ = train_checkpoint("aligned", start=first, folder="sixth")
    assert code == 2
    assert "is a TanhMax checkpoint already, so there is nothing to calibrate: set calibrate to null, or start from the softmax" in said


@pytest.mark.slow
def test_a_balanced_shift_is_trained_saved_and_never_changed_in_silence(train_checkpoint, tmp_path):
    flags = ("--shift", "balanced", "--polarity", "0.2")
    code, said, results = train_checkpoint("annealed", *flags, folder="first")
    assert code == 0, said
    assert results["config"]["shift"] == "balanced"
    first = str(tmp_path / "first")
    settings = AutoConfig.from_pretrained(first).tanhmax_settings
    assert (settings.shift, settings.polarity) == ("balanced", 0.2)
    code, said, _ = train_checkpoint("tanhmax", *flags, start=first, folder="second")
    assert code == 0, said
    code, said, _ = train_checkpoint("tanhmax", start=first, folder="third")
    assert code == 2
    assert f"the shift of {first} is balanced, but that of the recipe is None" in said


def test_the_model_of_another_family_is_refused_in_one_sentence(train_checkpoint, checkpoint, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in Path(checkpoint).iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "electra", "architectures": ["ElectraModel"]}))
    code, said, _ = train_checkpoint("tanhmax", start=str(other))
    assert code == 2
    assert "is a checkpoint of model type 'electra', but bert/text_classification is a recipe for 'bert'" in said


def test_a_checkpoint_with_too_few_positions_is_refused(train_checkpoint):
    code, said, _ = train_checkpoint("tanhmax", "--max_length", "24")
    assert code == 2
    assert "max_length is 24, but" in said
    assert "has positions for 23 tokens" in said


def test_a_recipe_of_another_family_is_refused(train, tmp_path):
    train("tanhmax", task="vit/image_classification")
    code, said, _ = train("tanhmax", "--model_name_or_path", str(tmp_path / "run"), folder="other")
    assert code == 2
    assert "is a checkpoint of model type 'vit', but bert/text_classification is a recipe for 'bert'; recipes/vit/ has those for it" in said


def test_frozen_layers_keep_their_weights(train_checkpoint, checkpoint, tmp_path):
    code, said, _ = train_checkpoint("tanhmax", "--freeze_layers", "1")
    assert code == 2
    assert "freeze_layers is 1, but the model has 1 layers, of which at least one must be trained" in said
    model = tiny_model(transformers.BertForSequenceClassification)
    freeze(model, 0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    freeze(model, 2)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        name for name, _ in model.named_parameters() if name.startswith(("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1"))
    }
