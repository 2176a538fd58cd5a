"""The benchmark of pages opens them in a browser and tells their sizes and times."""

import json
import shutil

from browser import chromium

from recipes.benchmarks import page


def test_small_pages(tmp_path, monkeypatch, capsys):
    with chromium():
        pass  # skips where there is none
    result = page.measured([5, 7], 2, layers=2, heads=3)
    assert [(row["tokens"], row["layers"], row["heads"], len(row["rounds"])) for row in result["rows"]] == [(5, 2, 3, 2), (7, 2, 3, 2)]
    for row in result["rows"]:
        assert 20_000 < row["bytes"] < 200_000
        for visit in row["rounds"]:
            assert 0 < visit["usable"] <= visit["drawn"]
            assert visit["choice"] > 0
    shown = page.report(json.loads(json.dumps(result)), markdown=True)
    assert "| 7 x 2 x 3 " in shown
    assert "MB, at most 30" in shown
    monkeypatch.setattr(page, "measured", lambda lengths, rounds: result)
    assert page.main(["--lengths", "5,7", "--out", str(tmp_path / "page.json")]) == 0
    assert "| " not in capsys.readouterr().out
    assert json.loads((tmp_path / "page.json").read_text())["chromium"]


def test_without_a_browser(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert page.main(["--lengths", "5"]) == 2
    assert "there is no Chromium to open a page in" in capsys.readouterr().err


def test_random_arrays_are_an_explanation():
    assert page.random_explanation(5, 2, 3).weights.shape == (2, 3, 5, 5)
