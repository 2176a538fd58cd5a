"""The benchmark of generation, rehearsed without a GPU: both models and both ways run, a wrong one stops it, and no figure is shown."""

import json
import re
from dataclasses import replace

import pytest
import torch

from recipes.benchmarks import generate as generate_speed
from recipes.benchmarks.generate import DRY, cache_bytes, gate, latency, models, prompts, report


@pytest.mark.slow
def test_a_rehearsal_runs_everything_and_shows_no_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["generate_speed", "--dry-run", "--output", str(tmp_path / "dry.json")])
    generate_speed.main()
    result = json.loads((tmp_path / "dry.json").read_text())
    ran = {(row["model"], row["way"], row["batch"]) for row in result["rows"]}
    assert ran == {(model, way, batch) for model in generate_speed.MODELS for way in generate_speed.WAYS for batch in DRY.batches}
    text = capsys.readouterr().out
    assert text == (tmp_path / "dry.md").read_text()
    assert text.startswith("**dry run: not a measurement**")
    assert not re.search(r"\d\.\d", text)
    shown = report(result | {"dry_run": False})
    assert "tokens/s" in shown
    assert shown.count("generate_batch") == 2 * len(DRY.batches)


def test_a_wrong_model_stops_the_run(monkeypatch):
    model = models("tiny", DRY)["TanhMax"]
    gate(model, prompts("tiny", 1, 5, "cpu"))
    monkeypatch.setattr(generate_speed, "LIMITS", {torch.float32: -1.0})
    with pytest.raises(SystemExit, match="logits of a cached step are off by"):
        gate(model, prompts("tiny", 1, 5, "cpu"))


def test_the_models_differ_in_their_attention_alone():
    pair = models("tiny", DRY)
    tokens = prompts("tiny", 1, 9, "cpu")
    with torch.no_grad():
        assert not torch.allclose(pair["TanhMax"](tokens).logits, pair["softmax"](tokens).logits)
    assert all(torch.equal(one, other) for one, other in zip(pair["TanhMax"].parameters(), pair["softmax"].parameters(), strict=True))


def test_what_is_too_large_is_left_out_and_said(monkeypatch):
    monkeypatch.setattr(generate_speed, "LARGEST_CACHE", 0)
    result = generate_speed.generate_speed(replace(DRY, batches=(1,)))
    assert result["rows"] == []
    assert "left out: tiny, batch 1, context 6" in report(result | {"dry_run": False})
    assert cache_bytes("1B", 1, 1) == 2 * 2 * 16 * 8 * 64


def test_latency_is_of_the_steps():
    assert latency([]) is None
    assert latency([1e-3] * 19 + [2e-3])["p50"] == pytest.approx(1.0)


def test_without_a_gpu_it_says_so(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("sys.argv", ["generate_speed"])
    with pytest.raises(SystemExit, match="there is no CUDA device here; --dry-run rehearses"):
        generate_speed.main()
