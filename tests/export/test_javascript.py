"""An exported int8 classifier in transformers.js gives the logits of onnxruntime, where Node.js and its packages are there."""

import json
import os
import shutil
import subprocess
from importlib import import_module

import numpy
import pytest
import torch
import transformers
from families import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import hf_tanhmax
from hf_tanhmax.export import export_model, lay_out_for_javascript

pytestmark = pytest.mark.filterwarnings("ignore")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "film", "was", "great", "awful", "dull", "bright", "and", "not", "very"]
TEXTS = ["the film was great", "a dull film and not very bright", "awful"]
SCRIPT = """
import { createRequire } from "node:module";
const { env, pipeline } = createRequire(process.env.TANHMAX_NODE + "/")("@huggingface/transformers");
env.allowRemoteModels = false;
env.localModelPath = process.argv[2];
const texts = JSON.parse(process.argv[3]);
const classify = await pipeline("text-classification", "model", { dtype: "q8", device: "cpu" });
const { logits } = await classify.model(classify.tokenizer(texts, { padding: true }));
console.log(JSON.stringify({ logits: logits.tolist(), answers: await classify(texts) }));
"""


def small_tokenizer():
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=32, **names)


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    """A folder with the layout, beside the one that was exported."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs {package} (pip install hf-tanhmax[onnx])")
    pytest.importorskip("transformers.exporters.runners", reason="needs Transformers 5.23 or newer")
    folder = tmp_path_factory.mktemp("javascript")
    torch.manual_seed(0)
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification, vocab_size=len(WORDS), num_labels=2).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.3)
    model.save_pretrained(folder / "source")
    small_tokenizer().save_pretrained(folder / "source")
    export_model(str(folder / "source"), folder / "exported", int8=True)
    lay_out_for_javascript(folder / "exported", folder / "model")
    return folder


@pytest.mark.slow
def test_transformers_js_gives_the_logits_of_onnxruntime(laid_out, tmp_path):
    node, packages = shutil.which("node"), os.environ.get("TANHMAX_NODE")
    if node is None or packages is None:
        pytest.skip("needs Node.js, and TANHMAX_NODE, a folder where `npm install @huggingface/transformers` was run")
    (tmp_path / "classify.mjs").write_text(SCRIPT)
    command = [node, str(tmp_path / "classify.mjs"), str(laid_out), json.dumps(TEXTS)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    session = import_module("onnxruntime").InferenceSession(str(laid_out / "exported" / "model_quantized.onnx"))
    inputs = small_tokenizer()(TEXTS, padding=True, return_tensors="np")
    (expected,) = session.run(["logits"], {each.name: inputs[each.name] for each in session.get_inputs()})
    assert numpy.ptp(expected) > 0.1
    assert numpy.abs(numpy.array(found["logits"]) - expected).max() < 1e-5
    assert [each["label"] for each in found["answers"]] == [f"LABEL_{number}" for number in expected.argmax(-1)]


@pytest.mark.slow
def test_the_layout(laid_out):
    assert {path.name for path in (laid_out / "model" / "onnx").iterdir()} == {"model.onnx", "model_quantized.onnx"}
    assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in (laid_out / "model").iterdir()}
    before, after = (json.loads((laid_out / name / "config.json").read_text()) for name in ("exported", "model"))
    assert (before.pop("model_type"), after.pop("model_type")) == ("tanhmax_bert", "bert")
    assert before == after
    with pytest.raises(ValueError, match="is there already; name a folder that is new"):
        lay_out_for_javascript(laid_out / "exported", laid_out / "model")


@pytest.mark.parametrize("config", [None, {"model_type": "bert"}, {"model_type": "tanhmax_llama"}])
def test_what_is_no_single_graph_of_ours_is_refused(config, tmp_path):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    if config == {"model_type": "bert"}:
        (tmp_path / "model.onnx").write_text("softmax")
    with pytest.raises(ValueError, match=r"holds no TanhMax model that was exported to ONNX as one graph: .*with_past=False"):
        lay_out_for_javascript(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
