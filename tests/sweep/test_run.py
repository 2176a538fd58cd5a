"""The runner of the sweep: it goes on where it stopped, and past a type that crashes or hangs."""

import json

import pytest
import run


def examined(monkeypatch, answer):
    """What comes of two types where a worker runs `answer` for each, a piece of Python."""
    code = f"import sys, json, os, time\nfor line in sys.stdin:\n    name = line.strip()\n    {answer}\n"
    original = run.subprocess.Popen
    monkeypatch.setattr(run.subprocess, "Popen", lambda command, **options: original([run.sys.executable, "-c", code], **options))
    return list(run.examined(["first", "second"]))


ANSWER = "print(json.dumps({'type': name, 'outcome': 'works'}), flush=True)"


def test_answers(monkeypatch):
    assert examined(monkeypatch, ANSWER) == [{"type": name, "outcome": "works"} for name in ("first", "second")]


def test_a_crash_ends_its_type_alone(monkeypatch):
    first, second = examined(monkeypatch, f"os._exit(3) if name == 'first' else {ANSWER}")
    assert first == {"type": "first", "outcome": "failed", "reason": "the process ended with 3"}
    assert second["outcome"] == "works"


def test_a_type_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(run, "LIMIT", 1)
    first, second = examined(monkeypatch, f"time.sleep(600) if name == 'first' else {ANSWER}")
    assert first == {"type": "first", "outcome": "failed", "reason": "no answer in 1 s"}
    assert second["outcome"] == "works"


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [([], ["second"]), (["--again", "refused"], ["first", "second"]), (["--only", "first"], ["first"]), (["--share", "2/2"], ["second"])],
)
def test_what_is_recorded_is_left_out(arguments, asked, monkeypatch, tmp_path):
    record = tmp_path / "record.jsonl"
    record.write_text(json.dumps({"type": "first", "outcome": "refused"}) + "\n")
    monkeypatch.setattr(run, "CONFIG_MAPPING_NAMES", {"first": "", "second": ""})
    monkeypatch.setattr(run, "examined", lambda types, levels: [{"type": name, "outcome": "works"} for name in types])
    monkeypatch.setattr(run.sys, "argv", ["run.py", "--record", str(record), *arguments])
    run.main()
    added = [json.loads(line)["type"] for line in record.read_text().splitlines()[1:]]
    assert added == asked
    assert run.read_record(record)[asked[0]]["outcome"] == "works"


def test_results_are_written_without_times(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "CONFIG_MAPPING_NAMES", {"first": "", "second": "", "third": ""})
    levels = {"silent": "passed", "future": "no text"}
    run.write({name: {"type": name, "outcome": "works", "levels": levels, "seconds": 3} for name in ("second", "first")})
    (written,) = tmp_path.glob("results-*.json")
    wanted = {"outcome": "works", "levels": {"future": "no text"}}
    assert json.loads(written.read_text())["types"] == {"first": wanted, "second": wanted}
