"""Tables of results: grouping, mean and standard deviation by hand, markdown, and what is refused."""

import copy
import json

import pytest

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.compare import comparison, main, paired_p


@pytest.fixture
def result():
    """A result with the parts that a table reads."""

    def make(variant="tanhmax", seed=0, accuracy=0.5, **config):
        return {
            "recipe": "bert--text_classification",
            "variant": variant,
            "seed": seed,
            "config": {"seed": seed, "batch_size": 32, **config},
            "data": {"source": "synthetic"},
            "metrics": {"train_loss": 0.25, "validation_accuracy": 0.75, "test_accuracy": accuracy, "test_f1": 0.5},
            "attention_health": {"overall": {"negative_mass": 0.5, "weight_sum": 0.75}},
            "wall_time_s": 10.0,
            "hardware": {"gpu": "a GPU"},
        }

    return make


def test_seeds_become_one_line_with_mean_and_deviation(result):
    lines = comparison(
        [result(seed=0, accuracy=0.5), result(seed=1, accuracy=0.7), result("softmax", accuracy=0.6)], width=None
    ).splitlines()
    assert lines[0].split()[:2] == ["variant", "n"]
    assert lines[2].startswith("tanhmax  2")
    assert "0.6000 ± 0.1414" in lines[2]
    assert "0.2500 ± 0.0000" in lines[2]
    assert lines[3].split()[:2] == ["softmax", "1"]
    assert "±" not in lines[3]


def test_markdown_is_a_table(result):
    lines = comparison([result(), result("softmax")], markdown=True).splitlines()
    assert {line.count("|") for line in lines} == {10}
    assert set(lines[1]) == set("|-:")


def test_runs_of_other_settings_are_lines_of_their_own(result):
    lines = comparison([result(), result(seed=1), result(seed=2, batch_size=64)]).splitlines()
    assert [line.split("  ")[0] for line in lines[2:4]] == ["tanhmax #1", "tanhmax #2"]
    other = result(seed=0)
    other["recipe"] = "bert--other"
    assert "bert--other--tanhmax" in comparison([result(), other])


@pytest.mark.parametrize("markdown", [True, False])
def test_data_sets_are_never_in_one_table(markdown, result):
    other = result("softmax") | {"data": {"source": "files", "sha256": {"test_file": "0123456789abcdef"}, "rows": {"test": 1200}}}
    said = comparison([result(), other], markdown=markdown)
    first, second = said.split("\n\ndata set 2 of 2, ")
    assert first.startswith("data set 1 of 2, synthetic:\n\n")
    assert ("tanhmax" in first, "softmax " in first) == (True, False)
    assert second.startswith("files; test_file 01234567; 1,200 test rows:\n\n")
    assert "tanhmax  " not in second


def test_columns_have_a_legend(result):
    said = comparison([result(), result("softmax")])
    assert "negative mass: share of all absolute attention weight that is negative" in said
    assert "n: runs, one per seed" in said
    assert "p: " not in said


def test_a_table_that_is_too_wide_fits_and_says_what_is_left_out(result, tmp_path, capsys):
    runs = [result(variant, seed=seed, accuracy=0.5 + seed) for variant in ("annealed", "softmax") for seed in (0, 1)]
    lines = comparison(runs).splitlines()
    assert max(map(len, lines[:4])) <= 100
    assert lines[-1] == "left out to fit 100 columns: train loss, seconds; hf_tanhmax.training.compare --all shows them"
    assert "test accuracy" in lines[0]
    file = tmp_path / "runs.json"
    file.write_text(json.dumps({"runs": runs}))
    assert main([str(file), "--all"]) == 0
    assert "train loss" in capsys.readouterr().out.splitlines()[0]


def test_a_figure_does_not_mix_data_sets(result, tmp_path, capsys):
    for name, source in (("a", "synthetic"), ("b", "digits")):
        (tmp_path / f"{name}.json").write_text(json.dumps(result() | {"data": {"source": source}}))
    assert main([str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--figure", str(tmp_path / "x.png")]) == 2
    assert "the runs are of several data sets" in capsys.readouterr().err


def test_a_run_without_test_data_has_dashes(result):
    made = copy.deepcopy(result())
    del made["metrics"]["test_accuracy"], made["metrics"]["test_f1"]
    assert comparison([made]).splitlines()[2].split().count("-") == 2


def test_one_run_twice_is_refused(result):
    with pytest.raises(RecipeError, match="seed 0 of tanhmax is given twice; a run counts once"):
        comparison([result(), result()])


def test_the_command(result, tmp_path, capsys):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(result()))
    assert main([str(file), "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| variant")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])


def test_files_of_every_form_and_day_are_compared(result, tmp_path, capsys):
    """A file of a variant from before keys were renamed, the result of one run of today, and a study of one run per line."""
    (tmp_path / "old.json").write_text(json.dumps({"runs": [result(seed=0, epochs=1, warmup_share=0.1)]}))
    (tmp_path / "new.json").write_text(json.dumps(result(seed=1, num_train_epochs=1, warmup_steps=0.1)))
    (tmp_path / "study.jsonl").write_text("".join(json.dumps(result("softmax", seed=seed)) + "\n" for seed in (0, 1)))
    assert main([str(tmp_path / name) for name in ("old.json", "new.json", "study.jsonl")]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:4]] == [["tanhmax", "2"], ["softmax", "2"]]


@pytest.mark.parametrize(
    ("contents", "message"),
    [("{", "is not JSON"), ("{}", "is not a result of recipes.train"), ("[]", "is not a result of recipes.train")],
)
def test_other_files_are_refused(contents, message, tmp_path, capsys):
    file = tmp_path / "a.json"
    file.write_text(contents)
    assert main([str(file)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"), [(["a", "--md"], "unrecognized arguments: --md"), (["--markdown"], "required: RESULT.json")]
)
def test_a_wrong_option_is_said_by_the_parser(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_there(capsys):
    assert main(["nowhere.json"]) == 2
    assert "cannot read nowhere.json: No such file" in capsys.readouterr().err


def outcomes(result, rights, **options):
    return result(**options) | {"outcomes": {"test": " ".join(map(str, rights))}}


def test_a_difference_on_the_same_rows_is_tested_in_pairs(result):
    softmax = [outcomes(result, [1] * 40 + [0] * 20, variant="softmax", seed=seed) for seed in (0, 1)]
    worse = [outcomes(result, [1] * 20 + [0] * 40, seed=seed) for seed in (0, 1)]
    same = [outcomes(result, [1] * 39 + [0] * 20 + [1], seed=seed) for seed in (0, 1)]
    assert paired_p(worse, softmax) < 0.001
    assert paired_p(same, softmax) == pytest.approx(1.0)
    table = comparison([*softmax, *worse]).splitlines()
    assert table[0].split()[-1] == "p"
    assert table[3].endswith("< 0.001")


def test_the_permutation_test_agrees_with_the_sign_test_by_hand(result):
    """Six rows differ, all in one direction: of the 64 ways to exchange them, two are as extreme."""
    softmax = [outcomes(result, [1] * 10, variant="softmax")]
    other = [outcomes(result, [0] * 6 + [1] * 4)]
    assert paired_p(other, softmax) == pytest.approx(2 / 64, abs=0.01)


def test_without_scipy_it_says_what_is_missing(result, monkeypatch):
    runs = [result(variant=variant, outcomes={"test": "1 0 1"}) for variant in ("softmax", "tanhmax")]
    told = "no p-values against softmax, as they need SciPy: pip install hf-tanhmax[recipes]"
    assert told not in comparison(runs)
    monkeypatch.setattr("hf_tanhmax.training.compare.find_spec", lambda name: None)
    assert told in comparison(runs)
    assert told not in comparison(runs[1:])
    assert " p |" not in comparison(runs, markdown=True)


def test_without_outcomes_or_common_seeds_there_is_no_test(result):
    assert paired_p([result()], [result("softmax")]) is None
    assert paired_p([outcomes(result, [1, 0])], [outcomes(result, [1, 0], variant="softmax", seed=1)]) is None
    assert comparison([result(), result("softmax")]).splitlines()[0].split()[-1] == "seconds"


def test_a_figure_of_all_runs(result, tmp_path, capsys):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"runs": [result(), result("softmax")]}))
    assert main([str(file), "--figure", str(tmp_path / "runs.svg")]) == 0
    assert (tmp_path / "runs.svg").stat().st_size > 0
    assert main([str(file), "--figure", str(tmp_path / "runs.gif")]) == 2
    assert "must end in .png or .svg" in capsys.readouterr().err
