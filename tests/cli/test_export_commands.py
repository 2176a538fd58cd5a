"""Export from the command line, in this process."""

import json

import pytest
import torch
from families import tiny_model
from saved_models import processor_for

import hf_tanhmax
from hf_tanhmax.cli.arguments import main

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporters of Transformers about themselves


@pytest.fixture
def bert(tmp_path):
    folder = tmp_path / "bert"
    tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification, num_hidden_layers=2).save_pretrained(folder)
    processor_for("bert").save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_export_writes_the_files_and_says_how_far_they_are(bert, tmp_path, capsys):
    pytest.importorskip("transformers.exporters.runners", reason="needs Transformers 5.23 or newer")
    out = tmp_path / "out"
    assert main(["export", str(bert), str(out), "--format", "torch"]) == 0
    said = capsys.readouterr().out
    assert f"{out} holds config.json, export.json" in said
    assert "from the live TanhMaxBertForSequenceClassification, over 4 calls" in said
    assert "of which 2 are softmax attention for 2 attention layers" in said
    assert {"model.pt2", "config.json", "export.json", "tokenizer.json"} <= {path.name for path in out.iterdir()}
    assert json.loads((out / "export.json").read_text())["hf_tanhmax"]["format"] == "torch"
    assert main(["export", str(bert), str(out), "--format", "torch"]) == 2
    assert "is there already and not an empty folder" in capsys.readouterr().err


@pytest.mark.slow
def test_another_head_by_its_task(bert, tmp_path, capsys):
    pytest.importorskip("transformers.exporters.runners", reason="needs Transformers 5.23 or newer")
    assert main(["export", str(bert), str(tmp_path / "out"), "--format", "torch", "--task", "feature-extraction"]) == 0
    assert "from the live TanhMaxBertModel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onxx"], "there is no format 'onxx' (did you mean 'onnx'?); choose from onnx, openvino, executorch, torch"),
        (["--format", "torch", "--int8"], "--int8 is of ONNX alone, but --format is torch"),
        (["--format", "torch", "--opset", "20"], "--opset is of ONNX alone, but --format is torch"),
        (["--task", "flying"], "there is no task 'flying'"),
        (["--auto-class", "BertModel"], "'BertModel' is no Auto class of a model"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, message, tmp_path, capsys):
    assert main(["export", str(tmp_path), str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_softmax_model_is_refused(tmp_path, capsys):
    pytest.importorskip("transformers.exporters.runners", reason="needs Transformers 5.23 or newer")
    from transformers import BertModel

    tiny_model(BertModel).save_pretrained(tmp_path / "softmax")
    assert main(["export", str(tmp_path / "softmax"), str(tmp_path / "out"), "--format", "torch"]) == 2
    assert "a BertModel computes softmax" in capsys.readouterr().err
    assert torch.is_grad_enabled()
