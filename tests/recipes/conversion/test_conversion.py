"""A tiny plan is run, resumed and rendered."""

import csv
import json
from dataclasses import replace

import pytest
import torch
import yaml
from datasets import Dataset
from families import tiny_config
from PIL import Image
from tiny_tokenizers import word_pieces
from transformers import AutoModelForImageClassification, BertModel, ViTImageProcessorPil, ViTModel

from hf_tanhmax.results import write_lines
from recipes.conversion import __main__ as door
from recipes.conversion import ablation, cost, run, table
from recipes.conversion.models import converted, softmax_model
from recipes.conversion.plan import PLAN, read_plan
from recipes.conversion.rows import read_rows
from recipes.conversion.training import evaluate, fine_tune

SHARED = {"model": "tiny", "batch_size": 5, "passes": 1, "learning_rate": 1e-3, "dropout": 0.0, "seeds": 2}
FILES = {"train": "train.csv", "validation": None, "test": "test.csv"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with data and a checkpoint, and a plan for them."""
    for name, count in (("train", 70), ("test", 13)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows((f"a {('bad', 'good')[row % 2]} film" + " not" * (row % 7), row % 2) for row in range(count))
    torch.manual_seed(0)
    BertModel(tiny_config("bert", upstream=True)).save_pretrained(tmp_path / "tiny")
    word_pieces().save_pretrained(tmp_path / "tiny")
    values = yaml.safe_load(PLAN.read_text())
    values |= {"tasks": {"small": {"title": "small", "max_length": 9, **SHARED, **FILES}}, "calibration_rows": 40, "refit_rows": 60}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    plan = read_plan(tmp_path / "plan.yaml")
    for module in (run, cost, ablation, table):
        monkeypatch.setattr(module, "read_plan", lambda: plan)
    return tmp_path, plan


def flags(folder, *more):
    return ["--data", str(folder), "--weights", f"tiny={folder / 'tiny'}", "--results", str(folder / "results"), *more]


def lines_of(folder, name="small"):
    return [json.loads(line) for line in (folder / "results" / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_cell_is_run_once_and_rendered(place, capsys):
    folder, plan = place
    work = ("--work", str(folder / "work"))
    assert door.main(["run", *flags(folder, *work, "--most", "3")]) == 0
    assert len(lines_of(folder)) == 3
    assert door.main(["run", *flags(folder, *work)]) == 0
    lines = lines_of(folder)
    keys = [(line["way"], line["tuned"], line["seed"]) for line in lines]
    untuned = [way.name for way in plan.ways.values() if not way.softmax and way.polarity_schedule is None]
    assert sorted(keys) == sorted(
        [(way, True, seed) for way in plan.ways for seed in (0, 1)] + [(way, False, seed) for way in untuned for seed in (0, 1)]
    )
    assert len({line["training"]["steps"] for line in lines if line["tuned"]}) == 1
    by_key = dict(zip(keys, lines, strict=True))
    assert by_key["softmax", True, 0]["signs"]["overall"]["negative_mass"] == 0
    assert by_key["at_once", True, 0]["signs"]["overall"]["negative_mass"] > 0.05
    assert by_key["aligned", True, 0]["conversion"]["seconds"] > 0
    capsys.readouterr()
    assert door.main(["run", *flags(folder, *work)]) == 0
    assert capsys.readouterr().out == ""  # nothing is missing
    assert door.main(["cost", *flags(folder, "--rounds", "2")]) == 0
    assert all(seconds > 0 for seconds in lines_of(folder, "cost")[0]["step_seconds"].values())
    for _ in range(2):  # the second time nothing is missing
        assert door.main(["ablation", *flags(folder, *work, "--ways", "softmax", "aligned", "--seeds", "1")]) == 0
    (line,) = lines_of(folder, "ablation")
    assert line["ablation"]["as_is"] == by_key["aligned", True, 1]["test"]["accuracy"]
    assert set(line["ablation"]["effects"]) == set(ablation.INTERVENTIONS)
    capsys.readouterr()
    assert door.main(["table", "--results", str(folder / "results"), "--markdown"]) == 0
    shown = capsys.readouterr().out
    for way in plan.ways.values():
        assert f"| {way.title} " in shown


def test_ways_start_from_the_same_weights_and_see_the_same_rows(place):
    folder, plan = place
    task = plan.tasks["small"]
    rows = read_rows(task, folder, folder / "tiny")
    assert {name: len(each) for name, each in rows.items()} == {"train": 63, "validation": 7, "test": 13}
    softmax, signed = (softmax_model(task, folder / "tiny", 2, seed=3) for _ in range(2))
    signed, _, _ = converted(signed, plan.ways["annealed"], plan, rows["train"], 3)
    for one, other in zip(softmax.state_dict().values(), signed.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert evaluate(softmax, rows["test"])["cross_entropy"] == pytest.approx(evaluate(signed, rows["test"])["cross_entropy"], abs=1e-6)
    first, again = (next(iter(rows["train"].training_batches(5, seed=3, epoch=1)))[0]["input_ids"] for _ in range(2))
    assert torch.equal(first, again)
    fine_tune(signed, rows["train"], task, plan.ways["annealed"], plan, seed=3)
    assert signed.config.tanhmax_polarity == 1.0


def test_only_embeddings_of_used_tokens_are_trained(place):
    folder, plan = place
    task = plan.tasks["small"]
    rows = read_rows(task, folder, folder / "tiny")["train"]
    model = softmax_model(task, folder / "tiny", 2, seed=3)
    before = model.get_input_embeddings().weight.detach().clone()
    fine_tune(model, rows, task, plan.ways["softmax"], plan, seed=3)
    after = model.get_input_embeddings().weight.detach()
    used = torch.cat(rows.inputs).unique()
    changed = (before != after).any(-1).nonzero().flatten()
    assert torch.equal(changed, used)
    assert before.shape == after.shape == (model.config.vocab_size, model.config.hidden_size)


def test_images_are_rows_too(place):
    folder, plan = place
    torch.manual_seed(0)
    ViTModel(tiny_config("vit", upstream=True)).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 15, "width": 15}).save_pretrained(folder / "vit")
    images = [Image.new("RGB", (8, 8), (30 * row, 0, 0)) for row in range(7)]
    for name in ("train", "test"):
        Dataset.from_dict({"image": images, "label": [row % 3 for row in range(7)]}).to_parquet(str(folder / f"{name}.parquet"))
    size = tiny_config("vit", upstream=True).patch_size * 2
    task = replace(plan.tasks["small"], train="train.parquet", test="test.parquet", image_size=size, max_train_rows=6, max_test_rows=3)
    rows = read_rows(task, folder, folder / "vit")
    assert {name: len(each) for name, each in rows.items()} == {"train": 5, "validation": 1, "test": 3}
    model = softmax_model(task, folder / "vit", 3, seed=0)
    assert isinstance(model, AutoModelForImageClassification._model_mapping[type(model.config)])
    assert 0 <= evaluate(model, rows["test"])["accuracy"] <= 1


def test_a_sweep_reads_no_test_rows(place, monkeypatch):
    folder, _ = place
    read = []
    monkeypatch.setattr(run, "evaluate", lambda model, rows: read.append(len(rows)) or {"accuracy": 0.5, "cross_entropy": 1.0})
    assert run.main(flags(folder, "--sweep", "learning_rate=1e-2", "passes=2")) == 0
    (line,) = lines_of(folder, "sweep")
    assert (line["learning_rate"], line["passes"], line["training"]["steps"]) == (1e-2, 2, 24)
    assert read == [7]


def test_what_cannot_work_is_said_in_a_sentence(place, tmp_path, capsys):
    folder, _ = place
    assert run.main(["--data", str(folder / "nowhere"), "--weights", f"tiny={folder}"]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert run.main(["--data", str(folder), "--weights", f"other={folder}"]) == 2
    assert "small needs weights: --weights tiny=DIR" in capsys.readouterr().err
    assert run.main(flags(folder, "--ways", "aligned", "--work", str(tmp_path / "work"))) in (0, 2)
    assert "run softmax first" in capsys.readouterr().err
    assert table.main(["--results", str(tmp_path / "none")]) == 2
    assert "there are no results" in capsys.readouterr().err
    (tmp_path / "small.jsonl").write_text('{"else": 1}\n')
    assert table.main(["--results", str(tmp_path)]) == 2
    assert "is not a result of recipes.conversion" in capsys.readouterr().err
    assert door.main(["walk"]) == 2
    assert "commands: run" in capsys.readouterr().err


def test_the_table_holds_means_standard_errors_and_costs(tmp_path):
    lines = [
        {"way": way, "tuned": tuned, "seed": seed, "test": {"accuracy": accuracy}, "signs": {"overall": {"negative_mass": mass}}}
        for way, tuned, seed, accuracy, mass in (
            ("softmax", True, 0, 0.9, 0.0),
            ("softmax", True, 1, 0.88, 0.0),
            ("aligned", True, 0, 0.87, 0.125),
            ("aligned", False, 0, 0.75, 0.1),
        )
    ]
    for line in lines:
        line |= {"conversion": {"seconds": 20.0}, "training": {"seconds": 100.0} if line["tuned"] else None}
    write_lines(tmp_path / "sst2.jsonl", lines)
    steps = {"softmax": 0.5, "tanhmax": 0.55, "balanced": 1.0}
    write_lines(tmp_path / "cost.jsonl", [{"task": "20news", "step_seconds": {}}, {"task": "sst2", "step_seconds": steps}])
    assert table.rendered(tmp_path).splitlines()[2:] == [
        "| softmax | 89.0 ± 1.0 (2) |         - |     0.00 |          - |",
        "| aligned |       -3.0 (1) | -15.0 (1) |     0.12 |      +32 % |",
    ]


def test_ablations_are_means_over_seeds(tmp_path):
    lines = [
        {"task": "sst2", "way": "aligned", "seed": seed, "ablation": {"effects": {"negatives_masked": {"difference": difference}}}}
        for seed, difference in ((0, -0.02), (1, 0.0))
    ]
    write_lines(tmp_path / "ablation.jsonl", lines)
    assert table.ablated(tmp_path).splitlines()[2:] == ["| SST-2 | aligned |   -1.0 ± 1.0 (2) |"]


def test_the_plan_is_whole():
    plan = read_plan()
    assert next(iter(plan.ways)) == "softmax"  # the classifier that is converted without fine-tuning comes first
    assert all(task.seeds >= 3 for task in plan.tasks.values())
