"""Answers to the questions of the plan, from lines whose answers are known; and the report that says them."""

import re
from dataclasses import replace

import pytest

from recipes.verdict import __main__ as door
from recipes.verdict import questions
from recipes.verdict.plan import RESULTS, read_plan
from recipes.verdict.report import REPORT, in_short, report
from recipes.verdict.results import read_all, read_paces


@pytest.fixture
def read(plan, write):
    def _read(changes=lambda cell: {}):
        return read_all(write(changes), plan)

    return _read


def better(cell):
    """Sign-softmax is better on both tasks and differential attention worse, by a little more in one seed than in the other."""
    return {"right": {"softmax": 20, "sign_softmax": 36 + cell.seed % 2, "differential": 4 + cell.seed % 2}[cell.map_name]}


def test_quality_and_subtraction(plan, read):
    answers = questions.quality(plan, lines := read(better))
    assert [(each.task, each.map_name) for each in answers] == [("vit_digits", "sign_softmax"), ("vit_digits", "differential")]
    assert answers[0].yes
    assert answers[0].difference.mean == pytest.approx(16.5 / 40)
    assert answers[1].is_significant(plan.level, worse=True)
    assert not answers[1].yes
    parts = [(each.map_name, each.part) for each in questions.subtraction(plan, lines)]
    assert parts == [("sign_softmax", "2"), ("sign_softmax", "4"), ("differential", "2"), ("differential", "4")]
    assert questions.good_for_something(plan, lines, {})["differential"] == []
    assert "vit_digits: test" in questions.good_for_something(plan, lines, {})["sign_softmax"]


def test_quality_in_short_is_of_finished_tasks_alone(plan, read):
    lines = read(better)
    assert re.fullmatch(
        r"sign-softmax \(Cog Attention\) is better than softmax in 1 of 1 real tasks: vit_digits, "
        r"\+41\.25 points of accuracy \(\+\S+ to \+\S+\); worse in 0\.",
        in_short(plan, lines, "sign_softmax"),
    )
    assert in_short(plan, lines, "differential").endswith(" is better than softmax in 0 of 1 real tasks; worse in 1.")
    begun = read(lambda cell: better(cell) if (cell.map_name, cell.seed) != ("differential", plan.seeds[-1]) else None)
    assert in_short(plan, begun, "sign_softmax") == ""


def test_a_gain_below_two_points_is_none_where_something_is_subtracted(plan, read, monkeypatch):
    lines = read(better)
    monkeypatch.setattr(questions, "POINTS", 0.5)
    assert not any(each.yes for each in questions.subtraction(plan, lines))


def test_comparisons_that_are_missing_count(plan, read):
    """With the first of two tasks missing, p is corrected for as many comparisons as before, and one seed answers nothing."""
    whole = questions.subtraction(plan, read(better))
    part = questions.subtraction(plan, read(lambda cell: better(cell) if cell.map_name != "differential" else None))
    assert len(part) == len(whole) / 2
    assert min(each.p for each in part) >= 4 * min(each.difference.p for each in part)
    one_seed = questions.quality(plan, read(lambda cell: better(cell) if cell.seed in (0, 1000) else None))
    assert {each.difference.n for each in one_seed} == {1}
    assert not any(each.yes for each in one_seed)


def test_a_task_in_which_no_model_attends_is_named(plan, read):
    idle = read(lambda cell: {"costs": (0, 0, 0) if cell.task.name == "negation" else (0.1, 0, 0)})
    assert "**No signed model uses its attention in negation**" in report(plan, idle, {})
    begun = read(lambda cell: {"costs": (0, 0, 0)} if cell.seed in (0, 1000) else None)
    assert "uses its attention" not in report(plan, begun, {})
    assert "uses its attention" not in report(plan, read(lambda cell: {"costs": (0, 0.1 * (cell.map_name == "differential"), 0)}), {})


def test_both_signs_must_carry_information_in_most_seeds(plan, read):
    costs = {"sign_softmax": (0.1, 0.1, 0.1), "differential": (0.1, 0.005, 0.1), "softmax": (0, 0, 0)}
    counts = {(each.task, each.map_name): each for each in questions.both_signs(plan, read(lambda cell: {"costs": costs[cell.map_name]}))}
    assert counts["negation", "sign_softmax"].yes
    assert not counts["negation", "differential"].yes
    assert ("negation", "softmax") not in counts
    assert counts["negation", "sign_softmax"].details["negatives_masked"] == pytest.approx(0.1)
    unpatterned = questions.both_signs(plan, read(lambda cell: {"costs": (0.1, 0.1, 0.005)}))
    assert not any(each.yes for each in unpatterned)
    one_of_two = questions.both_signs(plan, read(lambda cell: {"costs": (0.1, 0.1, 0.1) if cell.seed else (0, 0, 0)}))
    assert {(each.seeds_yes, each.seeds, each.yes) for each in one_of_two} == {(1, 2, False)}


def test_measures_over_seeds(plan, read):
    values = {"softmax": 0.4, "sign_softmax": 0.1, "differential": 0.4}

    def _special(cell):
        value = values[cell.map_name]
        return {"sink": value + 0.001 * (cell.seed % 2) * (cell.map_name != "softmax"), "tau": value}

    lines = read(_special)
    answers = {(each.task, each.part, each.map_name): each for each in questions.measured(plan, lines, questions.SINKS)}
    assert answers["negation", "sink share", "sign_softmax"].yes
    assert not answers["negation", "sink share", "differential"].yes
    assert len(answers) == 2 * 4 * 2
    taus = questions.measured(plan, lines, questions.FAITHFULNESS)
    assert {each.task for each in taus} == {"negation"}
    assert not any(each.yes for each in taus)


def test_speed(plan, read):
    special = {
        "softmax": {},
        "sign_softmax": {"curve": [[2, 0.5], [4, 0.4]], "seconds": 0.15},  # half the steps, each half as long again
        "differential": {"curve": [[2, 0.6], [4, 0.55]], "seconds": 0.05},
    }
    lines = read(lambda cell: special[cell.map_name])
    counts = {(each.task, each.map_name): each for each in questions.speed(plan, lines, {})}
    assert counts["negation", "sign_softmax"].yes
    assert counts["negation", "sign_softmax"].details == {"seconds_per_step": pytest.approx(1.5), "reached": 1.0}
    assert not counts["negation", "differential"].yes
    assert counts["negation", "differential"].details["reached"] == 0.0
    paces = {"negation": {"softmax": 1.0, "sign_softmax": 2.5, "differential": 2.0}}  # side by side, steps take longer than the runs say
    counts = {(each.task, each.map_name): each for each in questions.speed(plan, lines, paces)}
    assert not counts["negation", "sign_softmax"].yes
    assert counts["negation", "sign_softmax"].details["seconds_per_step"] == 2.5
    assert counts["vit_digits", "sign_softmax"].yes
    text = report(plan, lines, paces)
    assert "steps of all maps are timed side by side" in text
    assert "but for vit_digits, where each run has timed its own." in text


def test_speed_to_the_smallest_loss_where_the_plan_is_amended(plan, read):
    """Softmax's loss is at its least at the second step and rises; one map gets below its last loss only, another to its least."""
    special = {
        "softmax": {"curve": [[2, 0.4], [4, 0.6]], "seconds": 0.1},
        "sign_softmax": {"curve": [[2, 0.5], [4, 0.45]], "seconds": 0.1},
        "differential": {"curve": [[2, 0.4], [4, 0.7]], "seconds": 0.05},
    }
    lines = read(lambda cell: special[cell.map_name])
    amended = replace(plan, by_accuracy=("vit_digits",))
    counts = {(each.task, each.map_name): each for each in questions.speed(amended, lines, {})}
    assert counts["negation", "sign_softmax"].yes
    assert not counts["vit_digits", "sign_softmax"].yes
    assert counts["vit_digits", "sign_softmax"].details["reached"] == 0.0
    assert counts["vit_digits", "differential"].yes


def test_a_plan_that_was_amended_says_so_and_what_it_would_have_been(plan, read):
    lines = read()
    amended = replace(plan, by_accuracy=("vit_digits",))
    text = report(amended, lines, {})
    assert "**The plan was amended after the first result**: [AMENDMENTS.md](AMENDMENTS.md) says" in text
    assert "The learning rates of vit_digits are chosen by validation accuracy" in text
    assert "By the plan's own rule the rates would be the same." in text
    assert "amended after" not in report(plan, lines, {})
    for line in lines["vit_digits"]:
        line["validation"]["accuracy"] = line["learning_rate"] * 100
    assert "other rates would have been taken for vit_digits, softmax (0.001 instead of 0.003); " in report(amended, lines, {})
    grid = {**lines, "vit_digits": [line for line in lines["vit_digits"] if line["map"] == "softmax"]}
    assert "Not known yet, as the grid is not complete, of vit_digits." in report(amended, grid, {})


def test_the_report_of_nothing(plan, tmp_path):
    text = report(plan, read_all(tmp_path, plan), {})
    assert "**Nothing has been compared yet.**" in text
    assert "0 of 24 cells are done." in text
    assert "was changed" not in text


def test_the_report_of_a_part_says_what_is_missing(plan, read):
    text = report(plan, read(lambda cell: better(cell) if cell.seed in (0, 1000) else None), {})
    assert "**Preliminary**: not all models of the plan have been trained" in text
    assert "not yet" in text
    assert "| 3 of 6 |" in text


def test_the_report_of_all(plan, read):
    text = report(plan, lines := read(better), {})
    assert "The answer of the plan:" in text
    assert "* **sign-softmax (Cog Attention)**: better than softmax at vit_digits: test" in text
    assert "* **differential (DIFF V2)**: no gain found." in text
    assert f"All {sum(map(len, lines.values()))} results were made with the plan as it is" in text
    assert " worse |" in text
    assert " both |" in text
    assert "at an end of the grid for negation, softmax (0.001)" in text


def test_a_training_that_diverged_is_no_gain_and_has_no_measurements(plan, read):
    lines = read(better)
    for line in [line for line in lines["negation"] if line["map"] == "sign_softmax" and line["seed"] == 0]:
        line["measured"] = None
        for part in line["test"].values():
            part |= {"accuracy": float("nan"), "loss": float("nan")}
    answers = {(each.part, each.map_name): each for each in questions.subtraction(plan, lines)}
    assert answers["2", "sign_softmax"].p == 1
    assert not answers["2", "sign_softmax"].yes
    assert not questions.both_signs(plan, lines)[0].yes
    assert "nan" in report(plan, lines, {})


def test_a_plan_that_was_changed_after_the_first_result(plan_file, plan, read):
    lines = read()
    plan_file.write_text(plan_file.read_text().replace("# A plan", "# A better plan"))
    text = report(changed := read_plan(plan_file), lines, {})
    head = "**The plan was changed after the first result**: 24 of 24 results were made with another text of `PLAN.md`"
    assert f"{head} than the present one (SHA-256 {changed.digest[:12]}; theirs: {plan.digest[:12]})" in text
    for line in lines["negation"]:
        line["plan"] = changed.digest
    assert "12 of 24 results were made with another text" in report(changed, lines, {})


def test_the_command_writes_it(plan_file, write, tmp_path, capsys, plan):
    folder, output = write(better), tmp_path / "REPORT.md"
    assert door.main(["report", "--plan", str(plan_file), "--results", str(folder), "--output", str(output)]) == 0
    assert output.read_text() == report(plan, read_all(folder, plan), {})


def test_the_committed_report_is_what_the_committed_results_say():
    plan = read_plan()
    assert REPORT.read_text() == report(plan, read_all(RESULTS, plan), read_paces(RESULTS, plan)), (
        "render it again: python -m recipes.verdict report"
    )


def test_committed_results_hold_no_path_of_a_machine():
    for path in RESULTS.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            assert '"/' not in line
