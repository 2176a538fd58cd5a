"""The comparison of an exported model with the live one."""

from importlib import import_module

import pytest
import torch
from families import tiny_model

import hf_tanhmax
from hf_tanhmax.export import ExportError, export_model
from hf_tanhmax.export.checking import _compared, stages_of
from hf_tanhmax.export.inputs import random_inputs

exporters = pytest.importorskip("transformers.exporters.runners", reason="needs Transformers 5.23 or newer")
pytestmark = pytest.mark.filterwarnings("ignore")  # of packages that exporters import, and of the exporters about themselves


def test_positions_of_padding_do_not_count():
    tokens, seen = torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[1, 1, 0], [1, 1, 1]])
    live = {"logits": torch.full((2, 3, 5), -4.0), "past": object()}
    found = {"logits": live["logits"].clone()}
    found["logits"][0, 2] = 9.0
    assert _compared(found, live, seen, tokens) == (0.0, 4.0)
    assert _compared(found, live, None, tokens) == (13.0, 4.0)
    assert _compared({"logits": found["logits"][:, :2]}, live, seen, tokens) == (float("inf"), 4.0)


def test_what_generates_is_compared_at_its_prompt_and_at_the_token_after_it():
    model = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM, num_hidden_layers=2).eval()
    inputs = random_inputs(model, 2, 7)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])  # which generate leaves out, as it hides nothing
    stages = stages_of(model, inputs)
    assert {name: tuple(given["input_ids"].shape) for name, given in stages.items()} == {"prefill": (2, 7), "decode": (2, 1)}
    assert [given["attention_mask"].shape[1] for given in stages.values()] == [7, 8]


@pytest.mark.slow
def test_an_export_that_differs_is_not_written(tmp_path, monkeypatch):
    model = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification, num_hidden_layers=2).eval()
    exporting = import_module("hf_tanhmax.export.exporting")
    plain = exporting.exported_model

    def altered(live, *arguments, **options):
        found = plain(live, *arguments, **options)
        live.classifier.bias = torch.nn.Parameter(live.classifier.bias.detach() + 1.0)  # of which the export has the old one
        return found

    monkeypatch.setattr(exporting, "exported_model", altered)
    with pytest.raises(ExportError, match=r"differs from the live model by 1 in 'model' at batch .* nothing was written"):
        export_model(model, tmp_path / "out", format="torch")
    assert not (tmp_path / "out").exists()
