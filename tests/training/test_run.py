"""Whole runs: end to end, killed and resumed, in two processes, and every refusal that needs a run."""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import hf_tanhmax
from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.checkpoints import alone
from hf_tanhmax.training.configuration.recipe import read_recipes
from hf_tanhmax.training.run import run_one

# A process that dies as by `kill -9` while it writes the optimizer of its third checkpoint, part of which is on the disk.
KILLED_WHILE_SAVING = """
import os, signal, sys
import torch
from recipes.train import main

save, saved = torch.save, []

def dying(value, path, *rest, **options):
    if os.path.basename(str(path)) == "optimizer.pt":
        saved.append(path)
        if len(saved) == 3:
            with open(path, "wb") as file:
                file.write(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    return save(value, path, *rest, **options)

torch.save = dying
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softmax", "tanhmax", "annealed", "learned"])
def test_a_variant_runs_from_end_to_end(name, train, tmp_path):
    code, said, results = train(name)
    assert code == 0, said
    assert json.loads((tmp_path / "results" / f"bert--text_classification--{name}.json").read_text()) == {"runs": [results]}
    assert {"test_accuracy", "test_f1", "validation_accuracy", "train_loss"} <= set(results["metrics"])
    assert [step for step, _ in results["metrics"]["train_loss_curve"]] == list(range(1, 10))
    assert results["metrics"]["reload_difference"] == 0
    assert results["data"]["rows"] == {"train": 139, "validation": 15, "test": 66}
    assert {"python", "torch", "transformers", "accelerate", "hf-tanhmax"} <= set(results["versions"])
    assert results["hardware"]["num_processes"] == 1
    overall = results["attention_health"]["overall"]
    if name == "softmax":
        assert (overall["negative_mass"], overall["weight_sum"]) == (0.0, pytest.approx(1.0, abs=1e-6))
    else:
        assert overall["weight_sum"] < 1
    assert ("polarity_per_head" in results["attention_health"]) == (name == "learned")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert type(model).__name__ == ("BertForSequenceClassification" if name == "softmax" else "TanhMaxBertForSequenceClassification")
    assert name == "softmax" or model.config.tanhmax_polarity == ("learned" if name == "learned" else 1.0)
    assert f"{name}: " in said


@pytest.mark.slow
def test_tanhmax_and_softmax_are_trained_at_one_budget_and_shown_together(train, tmp_path):
    code, said, results = train("tanhmax", "--compare_with", "softmax")
    twin = json.loads((tmp_path / "run--softmax" / "results.json").read_text())
    assert code == 0
    assert {key for key, value in results["config"].items() if value != twin["config"][key]} == {"attention"}
    assert results["data"] == twin["data"]
    lines = [line.split()[:2] for line in said.splitlines() if line.startswith(("tanhmax ", "softmax "))]
    assert lines == [["tanhmax", "1"], ["softmax", "1"]]


@pytest.mark.slow
def test_a_finished_run_is_said_and_not_repeated(train):
    _, _, first = train("softmax")
    code, said, second = train("softmax")
    assert code == 0
    assert "this run is finished already" in said
    assert second == first


@pytest.mark.slow
def test_a_run_that_failed_on_its_data_leaves_the_folder_to_the_corrected_command(train, tmp_path):
    (tmp_path / "rows.csv").write_text("txt,label\n" + "good,1\nbad,0\n" * 40)
    flags = ("--train_file", str(tmp_path / "rows.csv"), "--batch_size", "8", "--num_train_epochs", "1")
    code, said, _ = train("softmax", *flags)
    assert code == 2
    assert "the train data has no column 'text' (text_column)" in said
    code, said, results = train("softmax", *flags, "--text_column", "txt")
    assert code == 0, said
    assert results["config"]["text_column"] == "txt"


@pytest.mark.slow
def test_another_run_in_the_folder_is_refused(train):
    train("softmax")
    code, said, _ = train("softmax", "--seed", "1")
    assert code == 2
    assert "holds another run, which differs in seed (0, now 1); choose another output_dir" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_name_or_path", "./nowhere"], "model_name_or_path: there is no folder ./nowhere"),
        (["--batch_size", "1000"], "batch_size is 1000, but there are only 139 rows to train on"),
        (["--batch_size", "7", "--gradient_accumulation_steps", "2"], "1 x 2 must divide it, but it is 7"),
        (["--num_processes", "2"], "num_processes is 2, but 1 was launched"),
        (["--layers", "3"], "there is no layer 3: 'bert' has 1 layers"),
        (["--layers", "1,1"], "layers names an index twice"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_exit_code_2(flags, message, train):
    code, said, results = train("tanhmax", *flags)
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert results is None


def test_reloading_is_checked(tiny_flags, variant, tmp_path, monkeypatch):
    """A model that is not the trained one after a reload is an error, not a result."""
    load = AutoModelForSequenceClassification.from_pretrained

    def wrong(*arguments, **options):
        model = load(*arguments, **options)
        hf_tanhmax.set_polarity(model, 0.0)
        return model

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", wrong)
    recipe = read_recipes([variant("tanhmax"), *tiny_flags("--output_dir", str(tmp_path / "run"), "--results_dir", "null")])[0]
    with pytest.raises(RuntimeError, match="the model reloaded from disk is not the trained one"):
        run_one(recipe)


def test_a_folder_in_which_a_run_is_going_on_is_left_alone(tiny_flags, variant, tmp_path):
    recipe = read_recipes([variant("tanhmax"), *tiny_flags("--output_dir", str(tmp_path / "run"), "--results_dir", "null")])[0]
    with alone(tmp_path / "run"), pytest.raises(RecipeError, match="another run is going on in output_dir"):
        run_one(recipe)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.slow
def test_a_run_killed_while_saving_resumes_from_the_last_whole_checkpoint_with_the_same_losses(launched, train, tmp_path):
    flags = ("--batch_size", "28", "--save_steps", "3", "--polarity_share", "1.0")  # 4 steps an epoch: step 6 is amid the second
    _, _, uninterrupted = train("annealed", *flags, folder="whole")
    done, results = launched("annealed", *flags, launcher=("-c", KILLED_WHILE_SAVING))
    assert done.returncode == -9, done.stderr
    assert results is None
    assert (tmp_path / "run" / "checkpoint-9" / "optimizer.pt").read_bytes() == b"half"
    code, said, _ = train("annealed", *flags)
    assert code == 2
    assert "holds this run unfinished; add --resume to continue it" in said
    code, said, resumed = train("annealed", *flags, "--resume", "true")
    assert code == 0, said
    assert "checkpoint-9, which is incomplete" in said
    assert f"resuming from {tmp_path / 'run' / 'checkpoint-6'}" in said
    assert resumed["metrics"] == uninterrupted["metrics"]


@pytest.mark.slow
def test_two_processes_train_as_one(launched, train, tmp_path):
    flags = ("--dropout", "0")
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
    done, two = launched("learned", *flags, "--num_processes", "2", folder="two", launcher=(*launcher, "-m", "recipes.train"))
    assert done.returncode == 0, done.stderr
    assert two["hardware"]["num_processes"] == 2
    assert two["hardware"]["distributed_type"] == "MULTI_CPU"
    _, _, one = train("learned", *flags, folder="one")
    for name in ("loss", "grad_norm"):
        curves = [_curve(tmp_path / folder, name) for folder in ("one", "two")]
        torch.testing.assert_close(*curves, rtol=0, atol=1e-4)
    assert one["metrics"]["test_cross_entropy"] == pytest.approx(two["metrics"]["test_cross_entropy"], abs=1e-4)


def _curve(folder, name):
    history = json.loads((folder / "checkpoint-9" / "trainer_state.json").read_text())["log_history"]
    return torch.tensor([record[name] for record in history if name in record])
