"""The benchmark of training steps, rehearsed without a GPU: all models run, a wrong one stops it, and no figure is shown."""

import json
import re

import pytest
import torch

from recipes.benchmarks import training as training_speed
from recipes.benchmarks.training import DRY, MODELS, TRAINED, Steps, built, gate, report


def test_a_rehearsal_runs_everything_and_shows_no_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["training_speed", "--dry-run", "--output", str(tmp_path / "dry.json")])
    training_speed.main()
    result = json.loads((tmp_path / "dry.json").read_text())
    assert {(row["shape"], row["model"]) for row in result["rows"]} == {(shape, model) for shape in TRAINED for model in MODELS}
    text = capsys.readouterr().out
    assert text == (tmp_path / "dry.md").read_text()
    assert text.startswith("**dry run: not a measurement**")
    assert not re.search(r"\d\.\d", text)
    shown = report(result | {"dry_run": False})
    assert "ms a step" in shown
    assert shown.count("target") == len(TRAINED)


@pytest.mark.parametrize("name", TRAINED)
def test_a_wrong_model_stops_the_run(name, monkeypatch):
    models, inputs = built(TRAINED[name], DRY)
    gate(models["TanhMax"], inputs)
    monkeypatch.setattr(training_speed, "LIMITS", {torch.float32: -1.0})
    with pytest.raises(SystemExit, match="logits are off by"):
        gate(models["TanhMax"], inputs)


@pytest.mark.parametrize("name", TRAINED)
def test_the_models_differ_in_their_attention_alone_and_a_step_trains_them(name):
    models, inputs = built(TRAINED[name], DRY)
    signed, softmax = models.values()
    assert all(torch.equal(one, other) for one, other in zip(signed.parameters(), softmax.parameters(), strict=True))
    with torch.no_grad():
        assert not torch.equal(signed(**inputs).logits, softmax(**inputs).logits)
    before = [parameter.detach().clone() for parameter in signed.parameters()]
    Steps(signed, inputs)()
    moved = [not torch.equal(one, other) for one, other in zip(before, signed.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


def test_sizes_are_those_of_the_names():
    configs = {name: shape.config(False) for name, shape in TRAINED.items()}
    assert (configs["bert"].hidden_size, configs["bert"].num_hidden_layers) == (768, 12)
    assert (configs["vit"].hidden_size, configs["vit"].image_size) == (768, 224)
    assert configs["llama"].max_position_embeddings >= TRAINED["llama"].length
    assert (configs["llama"].hidden_size, configs["llama"].num_hidden_layers, configs["llama"].vocab_size) == (2048, 16, 128256)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_dtype_is_asked_for(tmp_path, monkeypatch, dtype):
    asked = []
    monkeypatch.setattr(training_speed, "training_speed", lambda plan: asked.append(plan) or {})
    monkeypatch.setattr(training_speed, "report", lambda result: "")
    monkeypatch.setattr("sys.argv", ["training_speed", "--dry-run", "--dtype", dtype, "--output", str(tmp_path / "dry.json")])
    training_speed.main()
    assert [plan.dtype for plan in asked] == [dtype]


def test_without_a_gpu_it_says_so(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("sys.argv", ["training_speed"])
    with pytest.raises(SystemExit, match="there is no CUDA device here; --dry-run rehearses"):
        training_speed.main()
    monkeypatch.setattr("sys.argv", ["training_speed", "--dry-run", "--rounds", "0"])
    with pytest.raises(SystemExit, match="--rounds must be at least 1, but is 0"):
        training_speed.main()
