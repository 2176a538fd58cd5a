"""The examples run as they are documented, on small checkpoints; where there are real weights, on those too."""

import re
import runpy
import sys

import pytest
import transformers
from families import real_weights, tiny_model
from loopback.fixture import hub_environment, run_script
from readme import ROOT
from saved_models import processor_for

from hf_tanhmax import TanhMaxBertForSequenceClassification
from hf_tanhmax.settings import TanhMaxSettings

EXAMPLES = ROOT / "recipes" / "examples"


@pytest.fixture
def softmax(tmp_path, monkeypatch):
    """Make a softmax checkpoint in the folder that examples run in; returns its name."""
    monkeypatch.chdir(tmp_path)

    def made(cls, family):
        processor = processor_for(family)
        tiny_model(cls, vocab_size=len(processor)).save_pretrained("softmax")
        processor.save_pretrained("softmax")
        return "softmax"

    return made


@pytest.fixture
def example(monkeypatch, capsys):
    """Run an example as a script; returns the lines that it prints."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def test_every_example_is_short_and_tested():
    names = {path.name for path in EXAMPLES.glob("*.py")} - {"__init__.py"}
    assert names == {"convert_and_finetune.py", "patch_live_model.py", "explain.py", "serve.py", "walkthrough.py"}
    assert all(len((EXAMPLES / name).read_text().splitlines()) <= (70 if name == "walkthrough.py" else 40) for name in names)


@pytest.mark.filterwarnings("ignore:.pin_memory.")  # the Trainer asks for it where there is no GPU
def test_convert_and_finetune(softmax, example):
    printed = example("convert_and_finetune.py", softmax(transformers.BertModel, "bert"), "out")
    assert printed[-5:-1] == [
        line for step, polarity in ((5, 0.4), (10, 0.9), (15, 1.0), (20, 1.0)) for line in printed if f"step {step:2}: loss " in line
    ]
    assert [line.rsplit(" ", 1)[1] for line in printed[-5:-1]] == ["0.5", "1.0", "1.0", "1.0"]
    assert printed[-1] == "out is a TanhMaxBertForSequenceClassification of polarity 1.0"
    assert TanhMaxBertForSequenceClassification.from_pretrained("out").config.tanhmax_settings == TanhMaxSettings()


@pytest.mark.parametrize("weights", ["tiny", pytest.param("real", marks=pytest.mark.weights)])
def test_patch_live_model(weights, softmax, example):
    source = real_weights("bert") if weights == "real" else softmax(transformers.BertModel, "bert")
    share, lowest, moved, after = example("patch_live_model.py", source)
    assert share.endswith("% of the weights are negative, and none of softmax ever is")
    assert int(share.split("%")[0]) > 10
    assert float(lowest.split(",")[1].split(":")[0]) < -0.01
    assert float(moved.split()[-1]) > 0
    assert after == "afterwards the model is as it was"


@pytest.mark.filterwarnings("ignore:.* computes softmax")
def test_explain(softmax, example, tmp_path):
    printed = example("explain.py", softmax(transformers.LlamaForCausalLM, "llama"), "page.html")
    assert printed[0].startswith("'The capital of France is' goes on with ")
    assert all(line.endswith((" for it", " against it")) for line in printed[1:-1])
    assert printed[-1] == "every layer and head: open page.html"
    assert "Content-Security-Policy" in (tmp_path / "page.html").read_text()


def test_serve(softmax, example):
    *texts, compared = example("serve.py", softmax(transformers.LlamaForCausalLM, "llama"))
    assert [text.split(" goes on ")[0] for text in texts] == ["'The capital of France is'", "'A film can be'", "'Once upon a time'"]
    assert compared == "one by one the texts are the same"


@pytest.mark.slow
def test_walkthrough(softmax, hub, tmp_path):
    source = tmp_path / softmax(transformers.BertModel, "bert")
    folder = tmp_path / "out"
    printed = run_script(
        EXAMPLES / "walkthrough.py", str(source), str(folder), "owner/walked", environment=hub_environment(hub, tmp_path / "home")
    )
    assert re.search(r"accuracy 0\.\d+; [1-9]\d* % of the weight is negative\. \w", printed)
    assert re.search(r"\n(negative|positive), with probability \d\.\d\d\n", printed)
    assert "Content-Security-Policy" in (folder / "explain.html").read_text()
    assert re.search(rf"published: {hub.url}/owner/walked/commit/", printed)
    assert re.search(r"owner/walked, loaded without hf_tanhmax, gives the same logits to (0e\+00|\de-0[6-9])\n", printed)
