"""The plan that is committed, and plans that are none."""

import hashlib
from dataclasses import replace

import pytest

from hf_tanhmax.errors import RecipeError
from recipes.verdict.data.load import load, needs_files
from recipes.verdict.maps.registry import parameters_of
from recipes.verdict.models import build
from recipes.verdict.plan import AMENDMENTS, IMAGES, PLAN, SYNTHETIC, read_plan

PARAMETERS = {"bert_sst2": 5.3e6, "bert_masked": 5.3e6, "vit_cifar10": 3.2e6, "vit_digits": 0.1e6, "llama_text": 6.8e6}


def test_the_plan_says_what_it_runs():
    plan, text = read_plan(), PLAN.read_text()
    assert plan.digest == hashlib.sha256(text.encode()).hexdigest()
    assert [name for name in plan.tasks if f"| `{name}` |" not in text] == []
    assert [name for name in plan.maps if f"| `{name}` |" not in text] == []
    assert len(plan.seeds) == 5
    assert plan.baseline == "softmax"


@pytest.mark.parametrize("name", PARAMETERS)
def test_models_have_the_sizes_that_the_plan_names(name):
    task = read_plan().tasks[name]
    words = 3 if task.kind == IMAGES else task.vocabulary + 5
    found = parameters_of(build(task, "softmax", words, 10, dropout=0.1, seed=0))
    assert found == pytest.approx(PARAMETERS[name], rel=0.25 if name == "vit_digits" else 0.02)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("```yaml", "```", "PLAN.md must hold one block of YAML, which is the plan, but holds 0"),
        ("sign_softmax", "sparsemax", "there is no map 'sparsemax'; choose from softmax, tanhmax, balanced, sign_softmax, differential"),
        ("[softmax, sign_softmax, differential]", "[softmax, softmax]", "maps must be different names"),
        ("sweep_seed: 1000", "sweep_seed: 1", "sweep_seed 1 is also one of the seeds that are compared"),
        ("kind: images", "kind: sounds", "vit_digits is of kind 'sounds', but must be one of synthetic"),
        ("heads: 2", "heads: 3", "negation needs at least one step, and a width that its heads divide"),
        ("level: 0.05", "levels: 0.05", "the YAML of PLAN.md is no plan: TypeError"),
        ("steps: 4", "stops: 4", "the YAML of PLAN.md is no plan: TypeError"),
        ("maps: [", "maps: [[", "the YAML of PLAN.md is no plan: "),
    ],
)
def test_what_is_no_plan(plan_file, before, after, sentence):
    plan_file.write_text(plan_file.read_text().replace(before, after, 1))
    with pytest.raises(RecipeError) as error:
        read_plan(plan_file)
    assert sentence in str(error.value)


def test_no_plan_at_all(tmp_path):
    with pytest.raises(RecipeError, match=r"cannot read the plan .*: No such file or directory"):
        read_plan(tmp_path / "PLAN.md")


def test_data_that_are_not_there(tmp_path):
    tasks = read_plan().tasks
    files = {
        "bert_sst2": "sst2/train.csv",
        "bert_masked": "text/tinyshakespeare.txt",
        "llama_text": "text/tinyshakespeare.txt",
        "vit_cifar10": "cifar10/train.parquet",
    }
    assert {name for name, task in tasks.items() if needs_files(task)} == set(files)
    for name, file in files.items():
        with pytest.raises(RecipeError, match=f"{name} needs data: --data DIR, a folder with sst2/, cifar10/ and text/"):
            load(tasks[name], None)
        with pytest.raises(RecipeError, match=f"--data DIR must hold {file}"):
            load(tasks[name], tmp_path)


def test_a_generator_that_there_is_not(plan_file):
    plan_file.write_text(plan_file.read_text().replace("negation:", "addition:"))
    task = read_plan(plan_file).tasks["addition"]
    assert task.kind == SYNTHETIC
    with pytest.raises(RecipeError, match="there is no generator 'addition'; there are set_difference"):
        load(task, None)


def amend(plan_file, text):
    plan_file.with_name(AMENDMENTS).write_text(f"# Changes\n\n```yaml\n{text}\n```\n")
    return plan_file


def test_amendments_leave_the_digest(plan_file, plan):
    found = read_plan(amend(plan_file, "by_accuracy: [vit_digits]"))
    assert found == replace(plan, by_accuracy=("vit_digits",))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("by_accuracy: [vit_photos]", "AMENDMENTS.md: vit_photos is no task of the plan that has an accuracy"),
        ("seeds: [0]", "must be by_accuracy: [task, ...], but is {'seeds': [0]}"),
        ("by_accuracy: vit_digits", "must be by_accuracy: [task, ...], but is {'by_accuracy': 'vit_digits'}"),
        ("by_accuracy: [[vit_digits]]", "must be by_accuracy: [task, ...], but is {'by_accuracy': [['vit_digits']]}"),
        ("by_accuracy: [", "the YAML of AMENDMENTS.md cannot be read: "),
    ],
)
def test_what_is_no_amendment(plan_file, text, sentence):
    with pytest.raises(RecipeError) as error:
        read_plan(amend(plan_file, text))
    assert sentence in str(error.value)


def test_a_task_without_an_accuracy_cannot_be_chosen_by_it(plan_file):
    plan_file.write_text(plan_file.read_text().replace("kind: images", "kind: causal_text"))
    with pytest.raises(RecipeError, match="vit_digits is no task of the plan that has an accuracy"):
        read_plan(amend(plan_file, "by_accuracy: [vit_digits]"))
