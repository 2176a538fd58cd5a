"""The command: resumes, says what is wrong in one sentence, and the committed report is what the committed results render."""

from pathlib import Path

import pytest

import recipes.paper
from hf_tanhmax.results import read_lines, write_lines
from recipes.paper import ledger, report, tables
from recipes.paper.ledger import read_cells
from recipes.paper.run import main
from recipes.paper.settings import SETS

HERE = Path(recipes.paper.__file__).parent


@pytest.fixture
def settings(tmp_path):
    folder = tmp_path / "sets"
    folder.mkdir()
    lines = (SETS / "20news.yaml").read_text()
    (folder / "20news.yaml").write_text(lines.replace("attentions: [softmax, tanhmax, tanh]", "epochs: 2"))
    return folder


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "20news"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        rows = "".join(f'"a {word} game, number {number}",{label}\n' for number in range(12) for label, word in enumerate(("bat", "puck")))
        (folder / f"{split}.csv").write_text("text,label\n" + rows)
    return folder.parent


@pytest.mark.slow
def test_runs_then_resumes(settings, data, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["--fast", "--settings", str(settings), "--data", str(data), "--output", str(output), "--parts", "text", "--seeds", "1"]
    assert main(arguments) == 0
    studies = {path.name: read_lines(path) for path in sorted((output / "results").glob("*.jsonl"))}
    assert {name: len(cells) for name, cells in studies.items()} == {"grid.jsonl": 2, "text.jsonl": 6}
    text = (output / "REPORT.md").read_text()
    *kept, gone = studies["text.jsonl"]
    marked = [{**cell, "git": "not run again"} for cell in kept]
    write_lines(output / "results" / "text.jsonl", marked)
    assert main(arguments) == 0
    again = read_lines(output / "results" / "text.jsonl")
    assert again[:-1] == marked
    assert again[-1]["cell"] == gone["cell"]
    assert again[-1]["runs"]["0"]["test_accuracy"] == gone["runs"]["0"]["test_accuracy"]
    assert "not run: data not at hand" in text
    assert main(["--report", "--output", str(output)]) == 0


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--data", "nowhere"], "--data nowhere: there is no such folder"),
        (["--seeds", "0"], "--seeds must be at least 1, but is 0"),
        (["--sets", "sst3"], "--sets sst3: there is no such data set; there are 20news, ag_news, imdb, sst, "),
        (["--fasst"], "unknown argument '--fasst'"),
        (["--weights", "here"], "--weights wants FAMILY=DIR, but got 'here'"),
        (["--parts", "collapse", "--weights", "gpt=here"], "the family must be one of bert, vit, llama"),
    ],
)
def test_mistakes_are_one_sentence(flags, sentence, tmp_path, capsys):
    assert main([*flags, "--output", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("text,label\n", "the train data has no rows"),
        ("words,label\na,0\n", "has no column 'text'"),
        ("text,label\na,0\nb,2\n", "holds the label 2, but must hold the labels 0 and 1"),
        ("text,label\na,1\nb,1\n", "holds one class only"),
    ],
)
def test_data_that_cannot_be_used(content, sentence, data, tmp_path, capsys):
    (data / "20news" / "train.csv").write_text(content)
    assert main(["--fast", "--sets", "20news", "--parts", "text", "--data", str(data), "--output", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err


def test_settings_that_cannot_work(settings, tmp_path, capsys):
    for line, sentence in (
        ("epoks: 3", "unknown key 'epoks'"),
        ("batch_size: many", "batch_size must be a positive number, but is 'many'"),
    ):
        (settings / "20news.yaml").write_text((SETS / "sst.yaml").read_text() + line + "\n")
        assert main(["--settings", str(settings), "--output", str(tmp_path)]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("line", "sentence"), [("[1]", "is not a result of recipes.paper"), ("{", "text.jsonl: line 1: Expecting")])
def test_results_that_are_not_ours(line, sentence, tmp_path, capsys):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "text.jsonl").write_text(line)
    assert main(["--report", "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "remove it to run its cells again" in said


def test_a_cell_of_other_settings_begins_anew_and_leaves_the_others(tmp_path):
    ledger.Ledger(tmp_path, "text--a", {"epochs": 2}).add("0", {"value": 1})
    ledger.Ledger(tmp_path, "text--b", {"epochs": 2}).add("0", {"value": 2})
    again = ledger.Ledger(tmp_path, "text--a", {"epochs": 2})
    assert (again.replaced, again.missing(["0", "1"])) == (False, ["1"])
    again.add("1", {"value": 3})
    other = ledger.Ledger(tmp_path, "text--a", {"epochs": 3})
    assert (other.replaced, other.missing(["0"])) == (True, ["0"])
    other.add("10", {"value": 4})
    other.add("2", {"value": 5})
    found = read_cells(tmp_path)
    assert {name: {run: values["value"] for run, values in cell["runs"].items()} for name, cell in found.items()} == {
        "text--a": {"2": 5, "10": 4},
        "text--b": {"0": 2},
    }
    assert list(found["text--a"]["runs"]) == ["2", "10"]


def test_the_committed_report_is_rendered_from_the_committed_results():
    cells = read_cells(HERE / report.RESULTS)
    assert report.rendered(cells, report.pictures(HERE / report.FIGURES)) == (HERE / report.REPORT).read_text(encoding="utf-8")


def test_verdicts():
    assert tables._verdict(0.85, [0.86], [0.84], 0.015) == tables.HOLDS
    assert tables._verdict(0.85, [0.86], [0.70, 0.71], 0.015) == tables.AS_PUBLISHED
    assert tables._verdict(0.85, [0.60], [0.70, 0.71], 0.015) == tables.NOT_FOUND
    assert tables.spread([0.5, 0.7], percent=True) == "60.0 ± 14.1"
    assert tables.spread([0.5]) == "0.500 (1 seed)"
    assert tables.spread([]) == tables.MISSING
