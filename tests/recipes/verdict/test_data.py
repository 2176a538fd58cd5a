"""Texts and images from files: vocabulary of training text, splits that do not overlap, what is masked, and what cannot be used."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow

from hf_tanhmax.errors import RecipeError
from recipes.verdict.data.batches import IGNORED, LABELS
from recipes.verdict.data.load import load
from recipes.verdict.plan import read_plan

TASKS = read_plan().tasks


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "sst2").mkdir()
    for name, count in (("train", 70), ("dev", 12), ("test", 11)):
        rows = "".join(f"a {('bad', 'good')[row % 2]} film{' not' * (row % 7)} {name}{row},{row % 2}\n" for row in range(count))
        (tmp_path / "sst2" / f"{name}.csv").write_text("text,label\n" + rows)
    (tmp_path / "text").mkdir()
    lines = "".join(f"word{row % 50} speaks, and word{row % 7} hears: row{row}\n" for row in range(2000))
    (tmp_path / "text" / "tinyshakespeare.txt").write_text(lines)
    (tmp_path / "cifar10").mkdir()
    random = np.random.default_rng(0)
    for name, count in (("train", 60), ("test", 20)):
        images = [Pillow.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(count)]
        table = {"image": images, "label": [row % 10 for row in range(count)]}
        features = Features({"image": Image(), "label": Value("int64")})
        Dataset.from_dict(table, features=features).to_parquet(tmp_path / "cifar10" / f"{name}.parquet")
    return tmp_path


def test_sentences(folder):
    data = load(TASKS["bert_sst2"], folder)
    assert [sum(len(batch[LABELS]) for batch in batches) for batches in (data.validation, data.test["test"])] == [12, 11]
    assert data.classes == 2
    batch = next(data.training(0))
    assert len(batch[LABELS]) == 32
    assert batch["attention_mask"].any(0).all()  # no column is padding alone
    unknown = data.validation[0]["input_ids"].eq(1).any(1)
    assert unknown.all()  # a word of each validation row is in no training row
    first, *others = islice(data.training(0), 5)  # more than two passes
    assert torch.equal(first["input_ids"], batch["input_ids"])
    assert len(others) == 4
    assert set(data.origin) == {"train", "validation", "test"}


def test_text_to_go_on_with(folder):
    task = TASKS["llama_text"]
    data = load(task, folder)
    batch = next(data.training(0))
    assert batch["input_ids"].shape == (task.batch_size, task.length)
    assert torch.equal(batch["input_ids"], batch[LABELS])
    assert batch["input_ids"][:, 0].unique().numel() == 1
    rows = [row.tolist() for batches in (data.validation, data.test["test"]) for each in batches for row in each["input_ids"]]
    assert len({tuple(row) for row in rows}) == len(rows) > 2


def test_text_with_masked_words(folder):
    task = TASKS["bert_masked"]
    data = load(task, folder)
    for batch in (next(data.training(0)), data.validation[0], data.test["test"][0]):
        chosen = batch[LABELS] != IGNORED
        assert chosen.sum(1).eq(round(0.15 * (task.length - 2))).all()
        assert batch["input_ids"][chosen].eq(4).all()
        assert not batch["input_ids"][~chosen].eq(4).any()
        assert not chosen[:, [0, -1]].any()
    first, second = next(data.training(0)), next(data.training(1))
    assert not torch.equal(first[LABELS], second[LABELS])
    assert torch.equal(data.validation[0][LABELS], load(task, folder).validation[0][LABELS])


def test_images(folder):
    task = TASKS["vit_cifar10"]
    data = load(task, folder)
    assert (data.words, data.classes) == (3, 10)
    assert [sum(len(batch[LABELS]) for batch in batches) for batches in (data.validation, data.test["test"])] == [12, 20]
    batch = next(data.training(0))
    assert batch["pixel_values"].shape == (32, 3, 32, 32)
    assert batch["pixel_values"].abs().max() <= 1
    seen = {image.sum().item() for _, each in zip(range(3), data.training(0), strict=False) for image in each["pixel_values"]}
    held = {image.sum().item() for each in (*data.validation, *data.test["test"]) for image in each["pixel_values"]}
    assert not seen & held


def test_digits():
    data = load(TASKS["vit_digits"], None)
    assert (data.words, data.classes) == (1, 10)
    assert [sum(len(batch[LABELS]) for batch in batches) for batches in (data.validation, data.test["test"])] == [197, 400]
    assert next(data.training(0))["pixel_values"].shape == (32, 1, 8, 8)


def test_what_cannot_be_used(folder):
    with pytest.raises(RecipeError, match="the images of vit_cifar10 are 32 pixels wide, but the plan says 24"):
        load(replace(TASKS["vit_cifar10"], image_size=24), folder)
    with pytest.raises(RecipeError, match="vit_cifar10 has 48 training images, fewer than a batch of 64"):
        load(replace(TASKS["vit_cifar10"], batch_size=64), folder)
    (folder / "text" / "tinyshakespeare.txt").write_text("few words\n" * 20)
    with pytest.raises(RecipeError, match="a part of the text has 36 words, less than the 127 of a row"):
        load(TASKS["llama_text"], folder)
