"""Help and mistakes are answered in half a second of processor time, without torch, as the program is started."""

import json
import os
import resource
import subprocess
import sys

import pytest
from PIL import Image

from hf_tanhmax.cli import checks
from hf_tanhmax.cli.arguments import main

LIMIT = 0.5  # seconds of processor time
PROGRAM = """\
import sys
from hf_tanhmax.cli import main
code = main()
heavy = {"torch", "transformers", "numpy"} & set(sys.modules)
sys.exit(f"{heavy} are imported" if heavy else code)
"""
RECIPE = "bert/text_classification/tanhmax"
TEXT = ("--text", "not funny")
DATA = ("--data", "rows.csv")
CONFIGS = {
    "classifier": {"model_type": "tanhmax_bert", "architectures": ["TanhMaxBertForSequenceClassification"]},
    "seer": {"model_type": "tanhmax_vit", "architectures": ["TanhMaxViTForImageClassification"]},
    "zero": {"model_type": "tanhmax_bert", "tanhmax_polarity": 0.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the program is started: a model's folder, rows, and files that are none of what they should be."""
    place = tmp_path_factory.mktemp("folder")
    (place / "hf-tanhmax").write_text(PROGRAM)
    (place / "model").mkdir()
    (place / "model" / "README.md").write_text("mine")
    (place / "run").mkdir()
    (place / "run" / "recipe.json").write_text('{"config": {"task": "bert/text_classification"}}')
    (place / "text.png").write_text("text")
    (place / "broken.json").write_text("{")
    (place / "rows.csv").write_text("sentence,label\nnot funny,0\n")
    (place / "empty.csv").write_text("text\n")
    (place / "mine.yaml").write_text("epochs: 1\n")
    for name, values in CONFIGS.items():
        (place / name).mkdir()
        (place / name / "config.json").write_text(json.dumps(values))
    (place / "plain.csv").write_text("text,genre\nnot funny,0\n")
    (place / "pictures").mkdir()
    Image.new("RGB", (3, 3)).save(place / "pictures" / "a.png")
    for kind in ("bert", "llama", "vit"):
        (place / kind).mkdir()
        (place / kind / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    return place


def answer(folder, *arguments, **environment):
    """What the program says, its exit code, and the processor time that it took, the least of three."""
    clean = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_TOKEN_PATH")}
    clean |= {"HF_TOKEN_PATH": str(folder / "no token"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    least = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "hf-tanhmax", *arguments]
        done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if least < LIMIT:
            break
    return done, least


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["train", "--help"], ["train", RECIPE, "--help"], ["--version"]])
def test_help_is_quick(arguments, folder):
    done, seconds = answer(folder, *arguments)
    assert done.returncode == 0, done.stderr
    assert seconds < LIMIT
    assert "hf-tanhmax" in done.stdout or "polarity_schedule: null" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frob"], "argument COMMAND: invalid choice: 'frob'"),
        (["convert", "model", "out", "--polarities", "1"], "unrecognized arguments: --polarities 1; see hf-tanhmax --help"),
        (["convert", "model", "out", "--polarity", "2"], "argument --polarity: must be a number in [0, 1] or \"learned\", but is '2'"),
        (["convert", "model", "model"], "model is there already and not an empty folder; name one that is new"),
        (["convert", "./gone", "out"], "cannot convert ./gone: there is no such folder, and no repository on the Hub can have that name"),
        (["convert", "model", "out", "--task", "chess"], "there is no task 'chess'; there are feature-extraction, "),
        (["convert", "model", "out", "--auto-class", "BertModel"], "'BertModel' is no Auto class of a model; name one such as"),
        (["convert", "bert", "out", "--balance", "0.3"], "cannot convert bert: --balance goes with --calibrate FILE"),
        (["convert", "bert", "out", "--text-column", "a"], "cannot convert bert: --text-column goes with --calibrate FILE"),
        (
            ["convert", "bert", "out", "--calibrate", "rows.csv", "--balance", "0"],
            "argument --balance: must be a number in (0, 1], but is '0'",
        ),
        (["convert", "bert", "out", "--calibrate", "rows.csv", "--rows", "0"], "argument --rows: must be 1 or more, but is '0'"),
        (["convert", "bert", "out", "--calibrate", "gone.csv"], "cannot convert bert: [Errno 2] No such file or directory"),
        (["convert", "bert", "out", "--calibrate", "rows.csv"], 'cannot convert bert: rows.csv has no texts in a column "text"; its'),
        (
            ["convert", "bert", "out", "--calibrate", "."],
            "cannot convert bert: a model of type 'bert' is calibrated with a file of texts, but",
        ),
        (["convert", "vit", "out", "--calibrate", "rows.csv"], "cannot convert vit: a model of type 'vit' is calibrated with a folder of"),
        *(
            (["convert", "bert", "out", *given], f"cannot convert bert: {given[0]} goes with --calibrate FILE")
            for given in (["--refit"], ["--transfer-steps", "9"], ["--rows", "9"], ["--length", "9"], ["--batch-size", "9"])
        ),
        (
            ["convert", "bert", "out", "--calibrate", "rows.csv", "--transfer-steps", "-9"],
            "argument --transfer-steps: must be 1 or more, but",
        ),
        (["convert", "bert", "out", "--calibrate", "rows.csv", "--length", "0"], "argument --length: must be 1 or more, but is '0'"),
        (
            ["convert", "llama", "out", "--calibrate", "rows.csv", "--no-refit"],
            "cannot convert llama: a balanced shift balances every row by itself, so there is nothing to calibrate but output projections",
        ),
        (
            ["convert", "llama", "out", "--calibrate", "rows.csv", "--polarity", "0"],
            "cannot convert llama: polarity 0 is softmax, so there is nothing to calibrate",
        ),
        (
            ["convert", "bert", "out", "--calibrate", "rows.csv", "--polarity", "0", "--transfer-steps", "60"],
            "cannot convert bert: polarity 0 is softmax, so there is nothing to transfer attention to",
        ),
        (
            ["convert", "llama", "out", "--calibrate", "rows.csv", "--polarity", "0.3", "--balance", "0.4"],
            "cannot convert llama: with a balanced shift polarity and balance are one number, but are 0.3 and 0.4; pass one of them",
        ),
        (
            ["convert", "bert", "out", "--calibrate", "rows.csv", "--polarity", "learned"],
            "cannot convert bert: a learned polarity starts close to softmax, so there is nothing to calibrate",
        ),
        (["train", ""], "there is no recipe ; there are bert/masked_lm/aligned.yaml, "),
        (["train", "."], "there is no recipe .; there are bert/masked_lm/aligned.yaml, "),
        (["train", "gone"], "there is no recipe gone; there are bert/masked_lm/aligned.yaml, "),
        (["train", RECIPE, "--polarty", "0"], "--polarty: unknown key 'polarty'; did you mean 'polarity'?"),
        (["train", RECIPE, "--train_file", "gone.csv"], "train_file does not exist: gone.csv"),
        (["train", RECIPE, "--config_file", "gone.yaml"], "there is no config_file gone.yaml; there are accelerate_configs/cpu.yaml, "),
        (["train", "mine.yaml"], "mine.yaml names no task"),
        (["evaluate", "run", "--sead", "1"], "--sead: unknown key 'sead'; did you mean 'seed'?"),
        (["evaluate", "model"], "model is not the folder of a run: it has no readable recipe.json"),
        (["push", "gone", "you/model"], "gone is not a folder; name one that a model was saved to"),
        (["push", "model", "you/model"], "nobody is logged in: run `hf auth login`, set HF_TOKEN, or pass a token"),
        (["push-kernel", "you/kernel"], "nobody is logged in: run `hf auth login`, set HF_TOKEN, or pass a token"),
        (["push-kernel", "a/b/c", "--out", "new"], "'a/b/c' is no name of a repository: write owner/name"),
        (["push-kernel", "you/kernel", "--out", "model"], "model is there already and not an empty folder; name one that is new"),
        (["push-kernel", "you/kernel", "--out", "new", "--private"], "--out publishes nothing, so leave --private and --message away"),
        (["train", RECIPE, "--output_dir", "/proc/x"], "/proc/x cannot be written, as /proc takes no files ("),
        (["start", "--out", "/proc/x"], "/proc/x cannot be written, as /proc takes no files ("),
        (["convert", "bert", "/proc/x/y"], "/proc/x/y cannot be written, as /proc takes no files ("),
        (["convert", "bert", "plain.csv/y"], "plain.csv/y cannot be written, as "),
        (["export", "model", "/proc/x"], "/proc/x cannot be written, as /proc takes no files ("),
        (["explain", "--model", "m", *TEXT, "--out", "/proc/a.html"], "/proc cannot be written, as /proc takes no files ("),
        (["card", "gone"], "gone is not a folder; name one that a model was saved to"),
        (["card", "model"], "model/README.md is there already; add --overwrite to replace it, or name another file with --out"),
        (["card", "model", "--overwrite", "--repo", "not a name"], "repo_id must be a name that a repository can have, such as you/model"),
        (["card", "model", "--overwrite", "--base-model", "a/b/c"], "base_model must be a name that a repository can have"),
        (["card", "model", "--overwrite", "--results", "gone.json"], "cannot read results from gone.json: [Errno 2]"),
        (["card", "model", "--overwrite", "--results", "broken.json"], "cannot read results from broken.json: Expecting"),
        (["card", "model", "--overwrite", "--compare_with", "gone.json"], "cannot compare the results: there is no file gone.json"),
        (["doctor", "gone"], "gone is not a folder; name one that a model was saved to"),
        (["explain", "--model", "m", *TEXT, "--out", "a.gif"], "--out must end with one of .html, .png, .svg, .json, .safetensors, but"),
        (["explain", "--model", "m", *TEXT, "--out", "broken.json"], "broken.json is there already; add --overwrite to replace it"),
        (["explain", "--model", "m", *TEXT, "--out", "gone/a.html"], "there is no folder gone to write a.html to"),
        (["explain", "--model", "m", *TEXT, "--out", "a.html", "--head", "1,2"], "--picture and --head choose what a .png or .svg shows"),
        (["explain", "--model", "./m", *TEXT, "--out", "a.html"], "cannot explain ./m: there is no such folder, and no repository on the"),
        (
            ["explain", "--model", "m", *TEXT, "--out", "a.html", "--methods", "weights,luck"],
            "cannot explain m: there is no method 'luck'; choose from weights, oriented, ",
        ),
        (
            ["explain", "--model", "m", *TEXT, "--out", "a.png", "--head", "1"],
            "cannot explain m: the picture of a head needs --head LAYER,HEAD",
        ),
        (
            ["explain", "--model", "m", *TEXT, "--out", "a.safetensors", "--generate", "2"],
            "cannot explain m: a .safetensors file holds one explanation, but --generate asks for several",
        ),
        (
            ["explain", "--model", "m", *TEXT, "--out", "a.html", "--generate", "2", "--target", "b"],
            "cannot explain m: --generate needs a causal",
        ),
        (
            ["explain", "--model", "m", "--text", "a", "b", "--out", "a.safetensors"],
            "cannot explain m: a .safetensors file holds one explanation, but --text asks for several",
        ),
        (
            ["explain", "--model", "m", *TEXT, "--target", "0", "1", "--out", "a.png"],
            "cannot explain m: a .png file holds one explanation, but --target asks for several",
        ),
        (
            ["explain", "--model", "m", "--text", "a", "b", "--text-pair", "c", "--out", "a.html"],
            "cannot explain m: --text-pair is the second text of a pair, but --text has 2; give one",
        ),
        (
            ["explain", "--model", "m", "--text", "a", "b", "--generate", "2", "--out", "a.html"],
            "cannot explain m: --generate needs a causal",
        ),
        (
            ["explain", "--model", "m", *TEXT, "--out", "a.html", "--generate", "2", "--position", "0"],
            "cannot explain m: --generate needs a causal language model, one --text, no --target and no --position",
        ),
        (["explain", "--model", "m", "--image", "gone.png", "--out", "a.html"], "cannot explain m: [Errno 2] No such file or directory"),
        (
            ["explain", "--model", "m", "--image", "text.png", "--out", "a.html"],
            "cannot explain m: text.png is no picture that PIL can read",
        ),
        (["demo", "./gone"], "cannot show ./gone: there is no such folder, and no repository on the Hub can have that name"),
        (["demo", "m", "--methods", "luck"], "cannot show m: there is no method 'luck'; choose from weights, oriented, "),
        (["demo", "m", "--port", "70000"], "argument --port: must be a whole number from 0, which is any free port, to 65535, but is"),
        (["faithfulness", "--model", "m", *DATA, "--out", "a.html"], "--out must end with one of .json, .md, but is a.html"),
        (["faithfulness", "--model", "m", "--data", "gone.csv", "--out", "a.md"], "cannot measure m: [Errno 2] No such file or directory"),
        (
            ["faithfulness", "--model", "m", *DATA, "--out", "a.md"],
            'cannot measure m: rows.csv has no texts in a column "text"; its columns',
        ),
        (
            ["faithfulness", "--model", "m", *DATA, "--out", "a.md", "--measures", "luck"],
            "cannot measure m: there is no measure 'luck'; choose",
        ),
        (
            ["faithfulness", "--model", "m", *DATA, "--out", "a.md", "--methods", "luck"],
            "cannot measure m: there is no method 'luck'; choose",
        ),
        (["faithfulness", "--data", "gone.csv", "--out", "a.md"], "one of the arguments --model --models is required"),
        (["faithfulness", "--model", "m", "--out", "a.md"], "the following arguments are required: --data; see hf-tanhmax faithfulness"),
        (
            ["faithfulness", "--models", "m", *DATA],
            "cannot compare m: a comparison needs two models or more, but --models names one; --model",
        ),
        (["faithfulness", "--models", "m", "n", "m", *DATA], "cannot compare m, n, m: m is named twice; name each model once"),
        (["faithfulness", "--models", "m", "./n", *DATA], "cannot compare m, ./n: ./n: there is no such folder, and no repository"),
        (["faithfulness", "--models", "m", "n", *DATA, "--seed", "1"], "cannot compare m, n: --seed is of --model; leave it away"),
        (["faithfulness", "--models", "m", "n", *DATA, "--seeds", "0"], "argument --seeds: must be 1 or more, but is '0'"),
        (["faithfulness", "--models", "m", "n", *DATA, "--heads", "-1"], "argument --heads: must be 0 or more, but is '-1'"),
        (
            ["faithfulness", "--model", "m", *DATA, "--out", "a.md", "--seeds", "2"],
            "cannot measure m: --seeds is of --models; --seed chooses",
        ),
        (
            ["faithfulness", "--model", "m", *DATA, "--out", "a.md", "--workers", "2"],
            "cannot measure m: --workers is of --models; one model is measured by one process",
        ),
        (["faithfulness", "--models", "m", "n", *DATA, "--workers", "0"], "argument --workers: must be 1 or more, but is '0'"),
        (
            ["faithfulness", "--models", "m", "n", *DATA, "--methods", "contribution"],
            "cannot compare m, n: there is no method 'contribution' (did you mean 'contributions'?); choose from weights",
        ),
        (["faithfulness", "--models", "m", "n", "--data", "empty.csv"], "cannot compare m, n: empty.csv holds no text"),
        (["ablate", "m"], "the following arguments are required: DATA; see hf-tanhmax ablate --help"),
        (["ablate", "m", "rows.csv", "--out", "a.md"], "--out must end with one of .json, but is a.md"),
        (["ablate", "m", "rows.csv", "--out", "broken.json"], "broken.json is there already; add --overwrite to replace it, or name"),
        (["ablate", "m", "rows.csv", "--rows", "0"], "argument --rows: must be 1 or more, but is '0'"),
        (["ablate", "m", "gone.csv"], "cannot measure m: [Errno 2] No such file or directory"),
        (["ablate", "m", "rows.csv"], 'cannot measure m: rows.csv has no texts in a column "text"; its columns are sentence, label'),
        (["ablate", "./m", "rows.csv"], "cannot measure ./m: there is no such folder, and no repository on the Hub can have that name"),
        (["ablate", "m", "plain.csv", "--interventions", "luck"], "cannot measure m: there is no intervention 'luck'; choose from negat"),
        (
            ["ablate", "bert", "plain.csv"],
            "cannot measure bert: it has no negative weights to change: a model of type 'bert' computes",
        ),
        (["ablate", "zero", "plain.csv"], "cannot measure zero: it has no negative weights to change: its polarity is 0, which is softmax"),
        (
            ["ablate", "classifier", "plain.csv"],
            "cannot measure classifier: the accuracy of a TanhMaxBertForSequenceClassification needs labels, which plain.csv has not: "
            'none are in a column "label"; name the right one with --label-column',
        ),
        (
            ["ablate", "classifier", "plain.csv", "--label-column", "subject"],
            "cannot measure classifier: the accuracy of a TanhMaxBertForSequenceClassification needs labels, which plain.csv has not: "
            'none are in a column "subject"; name the right one with --label-column',
        ),
        (
            ["ablate", "seer", "pictures"],
            "cannot measure seer: the accuracy of a TanhMaxViTForImageClassification needs labels, which pictures has not: put each class "
            "into a folder of its own",
        ),
        (
            ["ablate", "seer", "plain.csv", "--label-column", "genre"],
            "cannot measure seer: a TanhMaxViTForImageClassification reads images, but plain.csv holds texts",
        ),
        (
            ["rank-collapse", "--model", "m", "--image", "gone.png", "--out", "a.svg"],
            "cannot measure m: [Errno 2] No such file or directory",
        ),
    ],
)
def test_a_mistake_is_answered_at_once(arguments, said, folder):
    done, seconds = answer(folder, *arguments)
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1
    assert (done.returncode, done.stdout) == (2, "")
    assert seconds < LIMIT


@pytest.mark.parametrize(
    ("repo", "token", "said"),
    [
        ("not a name", "hf_token", "'not a name' is no name of a repository: write owner/name"),
        ("you/model", "tökén", "the token holds spaces or letters that no token has"),
    ],
)
def test_who_pushes_and_where(repo, token, said, folder):
    done, seconds = answer(folder, "push", "model", repo, HF_TOKEN=token)
    assert done.stderr.startswith(f"error: {said}")
    assert (done.returncode, seconds < LIMIT) == (2, True)


def test_python_m_is_the_program_too(folder):
    for arguments, code in ((["--help"], 0), (["frob"], 2)):
        command = [sys.executable, "-X", "importtime", "-m", "hf_tanhmax.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code
        imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
        assert "hf_tanhmax.cli.arguments" in imported
        assert not {"torch", "transformers", "huggingface_hub"} & imported


# What the checks leave behind


def test_pictures_and_rows_are_read_once(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    Image.new("RGB", (15, 15)).save("picture.png")
    left = {}
    for name in ("explain", "faithfulness", "rank_collapse"):
        check = getattr(checks, f"check_{name}")

        def keep(options, check=check):
            check(options)
            left.update(vars(options))
            raise SystemExit("far enough")

        monkeypatch.setattr(checks, f"check_{name}", keep)
    for command, given in (("explain", ["--image", "picture.png"]), ("rank-collapse", ["--image", "picture.png", "picture.png"])):
        assert main([command, "--model", "m", *given, "--out", "a.svg"]) == 2
        assert [picture.size for picture in left["pictures"]] == [(15, 15)] * (len(given) - 1)
    assert main(["faithfulness", "--model", "m", *DATA, "--text-column", "sentence", "--methods", "random", "--out", "a.md"]) == 2
    assert left["inputs"] == ["not funny"]
    assert main(["faithfulness", "--models", "here/m", "there/m", "--methods", "all", "--seeds", "5"]) == 2
    assert (len(left["inputs"]), left["out"].name, left["figure"].name) == (200, "faithfulness.json", "faithfulness.png")
    assert left["sources"] == {"here/m": "here/m", "there/m": "there/m"}  # the last parts of paths that tell them apart
    assert capsys.readouterr().err == "error: far enough\n" * 4


def test_results_of_a_card(folder):
    for name, text in (("one.json", "{}"), ("two.json", '{"runs": [1, 2]}')):
        (folder / name).write_text(text)
    assert checks._runs(folder / "one.json") == [{}]
    assert checks._runs(folder / "two.json") == [1, 2]
