"""Checkpoints for explanations: the class their config names, what makes their inputs, and no code of theirs."""

import json

import pytest
import torch
from families import TINY, assert_same, inputs_for, run
from image_processors import load_images
from saved_models import change_json, save_adapter, save_model

from hf_tanhmax.interpret.inputs.loading import load

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks by an old name


@pytest.mark.parametrize("family", [pytest.param(family, marks=load_images if family == "vit" else ()) for family in TINY])
def test_a_checkpoint(family, tmp_path):
    saved = save_model(tmp_path, family)
    found = load(str(tmp_path))
    assert type(found.model) is type(saved)
    assert not found.model.training
    assert found.model.dtype == torch.float32
    assert_same(run(found.model, inputs_for(family)), run(saved, inputs_for(family)))
    assert (found.tokenizer is None, found.processor is None) == ((True, False) if family == "vit" else (False, True))
    assert found.is_causal == (family == "llama")


def test_half_precision_is_read_as_float32(tmp_path):
    saved = save_model(tmp_path)
    saved.bfloat16().save_pretrained(tmp_path)
    assert load(str(tmp_path)).model.dtype == torch.float32


def test_a_model_without_a_head(tmp_path):
    save_model(tmp_path, auto="AutoModel")
    assert type(load(str(tmp_path)).model).__name__ == "TanhMaxBertModel"


def test_an_adapter_is_merged(tmp_path):
    adapted = save_adapter(tmp_path)
    found = load(str(tmp_path))
    assert type(found.model).__name__ == "TanhMaxBertForSequenceClassification"
    assert_same(run(found.model, inputs_for("bert")), run(adapted, inputs_for("bert")))


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(OSError, match="gone"):
        load(str(tmp_path / "gone"))
    save_model(tmp_path)
    change_json(tmp_path / "config.json", architectures=["TanhMaxBertForChess"])
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["TanhMaxBertForChess"]
    with pytest.raises(ValueError, match=r"its config names \['TanhMaxBertForChess'\], which is not one class of 'tanhmax_bert' in Transf"):
        load(str(tmp_path))
