"""The benchmark of exported models: both run in every round, and the tables say what was measured."""

import itertools

import pytest
import torch
from thorough import thorough_only

from hf_tanhmax.export import FORMATS
from recipes.benchmarks import export
from recipes.benchmarks.export import ATTENTIONS, ENGINES, int8_table, model_of, speed_table, timed


def test_every_round_runs_every_model_in_an_order_that_alternates():
    ran = []
    times = timed({name: lambda name=name: ran.append(name) for name in ("a", "b")}, 2)
    assert ran == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2}


def test_the_models_differ_in_their_attention_alone():
    pair = [model_of("vit", attention) for attention in ("softmax", "TanhMax")]
    assert all(torch.equal(one, other) for one, other in zip(*(model.parameters() for model in pair), strict=True))
    assert {ENGINES[name][0] for name in ENGINES} == set(FORMATS)
    assert ATTENTIONS["softmax"] is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("engine", "family", "stages"),
    [("onnxruntime", "vit", ["model"]), ("executorch", "vit", ["model"]), ("aoti", "llama", ["prefill", "decode"])],
)
def test_a_rehearsal(engine, family, stages, monkeypatch):
    if engine == "aoti":
        thorough_only("AOTInductor's libraries are tested with the export, and the benchmark with other engines")
    for package in FORMATS[ENGINES[engine][0]].needs:
        pytest.importorskip(package, reason=f"needs {package} (pip install hf-tanhmax[{ENGINES[engine][0]}])")
    pytest.importorskip("transformers.exporters.runners", reason="needs Transformers 5.23 or newer")
    monkeypatch.setattr(export, "SIZE", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8})
    monkeypatch.setitem(export.FAMILIES, "vit", ("ViTForImageClassification", {"image_size": 8, "patch_size": 4}))
    monkeypatch.setitem(export.FAMILIES, "llama", ("LlamaForCausalLM", {"vocab_size": 16, "num_key_value_heads": 1}))
    rows = list(export.speed([family], [engine], 2))
    assert [(row["stage"], row["attention"]) for row in rows] == list(itertools.product(stages, ATTENTIONS))
    assert [row["attention_nodes"] for row in rows] == ([0, 0, 0] if engine == "executorch" else [1, 1, 2]) * len(stages)
    assert max(row["largest_difference"] for row in rows) < 1e-4
    shown = speed_table({"rows": rows})
    assert "softmax |" not in shown.splitlines()[2]
    assert len(shown.splitlines()) == 2 + 2 * len(stages)


def test_int8_in_a_row():
    row = {
        "model": "tanhmax",
        "accuracy": {"live": 0.875, "ONNX": 0.875, "ONNX, int8": 0.87},
        "same_answer": {"live": 1.0, "ONNX": 1.0, "ONNX, int8": 0.99},
        "bytes": [90e6, 23e6],
    }
    cells = [cell.strip() for cell in int8_table({"rows": [row]}).splitlines()[-1].split("|")]
    assert cells[1:-1] == ["tanhmax", "0.8750", "0.8750", "0.8700", "0.9900", "90", "23"]
