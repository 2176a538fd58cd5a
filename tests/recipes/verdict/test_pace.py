"""Steps of all maps are timed in turn, a line for each task."""

import json

import pytest

from recipes.verdict import __main__ as door
from recipes.verdict.results import read_paces


@pytest.fixture
def command(plan_file, tmp_path):
    def _run(*flags):
        return door.main(["pace", "--plan", str(plan_file), "--results", str(tmp_path / "results"), *map(str, flags)])

    return _run


def test_a_line_for_each_task(command, plan, tmp_path, capsys):
    folder = tmp_path / "results"
    assert read_paces(folder, plan) == {}
    assert command("--rounds", 2) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["negation", "vit_digits"]
    lines = [json.loads(line) for line in (folder / "pace.jsonl").read_text().splitlines()]
    assert [(line["task"], line["plan"], line["rounds"]) for line in lines] == [(name, plan.digest, 2) for name in plan.tasks]
    for line in lines:
        assert set(line["maps"]) == set(plan.maps)
        assert line["maps"]["softmax"]["ratio"] == [1.0, 1.0, 1.0]
        assert all(low <= middle <= high for found in line["maps"].values() for low, middle, high in found.values())
        assert min(found["seconds"][0] for found in line["maps"].values()) > 0.0
        assert line["hardware"]["cpu"]
    assert command("--rounds", 1, "--tasks", "negation") == 0
    again = json.loads((folder / "pace.jsonl").read_text().splitlines()[-1])
    assert read_paces(folder, plan)["negation"] == {name: found["ratio"][1] for name, found in again["maps"].items()}
    assert set(read_paces(folder, plan)) == set(plan.tasks)
    text = (folder / "pace.jsonl").read_text()
    (folder / "pace.jsonl").write_text(text.replace(plan.digest, "0" * 64))  # times of another plan's models
    assert read_paces(folder, plan) == {}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--tasks", "sums"), "sums"),
        (("--rounds", "0"), "must be at least 1, but is 0"),
        (("--data", "gone"), "--data gone: there is no such folder"),
    ],
)
def test_what_cannot_work(flags, sentence, command, capsys):
    try:
        code = command(*flags)
    except SystemExit as stop:  # of the parser
        code = stop.code
    assert code == 2
    assert sentence in capsys.readouterr().err
