"""The command: resumes, says what is wrong in one sentence, and the committed report is what the committed results render."""

import json
from pathlib import Path

import pytest

import recipes.paper
from recipes.paper import report, tables
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


def test_runs_then_resumes(settings, data, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["--fast", "--settings", str(settings), "--data", str(data), "--output", str(output), "--parts", "text", "--seeds", "1"]
    assert main(arguments) == 0
    cells = sorted((output / "results").glob("*.json"))
    assert len(cells) == 8
    times = {path: path.stat().st_mtime_ns for path in cells}
    text = (output / "REPORT.md").read_text()
    cells[-1].unlink()
    assert main(arguments) == 0
    again = {path: path.stat().st_mtime_ns for path in cells}
    assert [path for path in cells if again[path] != times[path]] == [cells[-1]]
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


def test_results_that_are_not_ours(tmp_path, capsys):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "text.json").write_text(json.dumps([1]))
    assert main(["--report", "--output", str(tmp_path)]) == 2
    assert "is not a result of recipes.paper" in capsys.readouterr().err


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
