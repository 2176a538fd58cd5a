"""SST-2 and Tiny Shakespeare: words as numbers, whose vocabulary is that of the training text."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.data.tokenizer import build_tokenizer
from hf_tanhmax.training.trainer import LengthSampler

from ..plan import MASKED, Task
from .batches import EVALUATION_BATCH, IGNORED, LABELS, Batch, TaskData, in_batches, trimmed

SST2 = {"train": "train.csv", "validation": "dev.csv", "test": "test.csv"}
SHAKESPEARE = Path("text") / "tinyshakespeare.txt"
TRAINING_SHARE, VALIDATION_SHARE = 0.9, 0.05
MASKED_SHARE, MASK_SEED = 0.15, 20_001


def digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        RecipeError: it is not there.
    """
    if not path.is_file():
        raise RecipeError(f"there is no {path.name} in {path.parent}: --data DIR must hold {path.parent.name}/{path.name}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sentences(task: Task, folder: Path) -> TaskData:
    """SST-2, its own splits, words of training sentences."""
    files = {split: folder / "sst2" / name for split, name in SST2.items()}
    digests: dict[str, object] = {split: digest(path) for split, path in files.items()}
    tables: dict[str, Any] = {split: Dataset.from_csv(str(path)).to_dict() for split, path in files.items()}
    tokenizer = build_tokenizer(tables["train"]["text"], vocabulary_size=task.vocabulary, max_length=task.length)
    splits = {split: _encoded(tokenizer, table, task.length) for split, table in tables.items()}

    def _training(seed: int) -> Iterator[Batch]:
        rows = splits["train"]
        sampler = LengthSampler(rows["attention_mask"].sum(1).tolist(), batch_size=task.batch_size, seed=seed)
        epoch = 0
        while True:
            sampler.set_epoch(epoch)
            order, epoch = torch.tensor(list(sampler)), epoch + 1
            for chosen in order[: len(order) // task.batch_size * task.batch_size].split(task.batch_size):
                yield trimmed({name: value[chosen] for name, value in rows.items()})

    classes = 1 + int(splits["train"][LABELS].max())
    evaluated = {split: _sorted(splits[split]) for split in ("validation", "test")}
    return TaskData(len(tokenizer), classes, _training, evaluated["validation"], {"test": evaluated["test"]}, origin=digests)


def running_text(task: Task, folder: Path) -> TaskData:
    """Rows of equal length of one text, which begin with [CLS]: words to predict from those before, or words that are masked."""
    path = folder / SHAKESPEARE
    origin: dict[str, object] = {"text": digest(path)}
    text = path.read_text(encoding="utf-8")
    cuts = [0, int(TRAINING_SHARE * len(text)), int((TRAINING_SHARE + VALIDATION_SHARE) * len(text)), len(text)]
    parts = [text[start:end] for start, end in pairwise(cuts)]
    tokenizer = build_tokenizer(parts[0].splitlines(), vocabulary_size=task.vocabulary, max_length=task.length)
    train, validation, test = (_cut(tokenizer, part, task) for part in parts)

    def _training(seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            for chosen in torch.randperm(len(train), generator=generator).split(task.batch_size):
                if len(chosen) == task.batch_size:
                    yield _to_predict(train[chosen], task, tokenizer, generator)

    fixed = [
        in_batches(_to_predict(rows, task, tokenizer, torch.Generator().manual_seed(MASK_SEED)), EVALUATION_BATCH // 2)
        for rows in (validation, test)
    ]
    return TaskData(len(tokenizer), 2, _training, fixed[0], {"test": fixed[1]}, origin=origin)


def _encoded(tokenizer: PreTrainedTokenizerBase, table: dict[str, Any], length: int) -> Batch:
    texts = [text or "" for text in table["text"]]
    found = tokenizer(texts, truncation=True, max_length=length, padding="max_length", return_tensors="pt")
    return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"], LABELS: torch.tensor(table["label"])}


def _sorted(rows: Batch) -> list[Batch]:
    """Batches of rows of similar length."""
    order = rows["attention_mask"].sum(1).argsort(stable=True)
    return in_batches({name: value[order] for name, value in rows.items()})


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, task: Task) -> Tensor:
    """`[rows, length]`: [CLS] and words, and for a masked model [SEP] at the end."""
    words = torch.cat([torch.tensor(ids, dtype=torch.int64) for ids in _ids(tokenizer, text)])
    ends = int(task.kind == MASKED)
    inner = task.length - 1 - ends
    if len(words) < inner:
        raise RecipeError(f"a part of the text has {len(words)} words, less than the {inner} of a row")
    rows = words[: len(words) // inner * inner].view(-1, inner)
    special = [torch.full((len(rows), 1), each) for each in (tokenizer.cls_token_id, tokenizer.sep_token_id)]
    return torch.cat([special[0], rows, *special[1:][:ends]], dim=1)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[list[int]]:
    lines = [line for line in text.splitlines() if line.strip()]
    found: list[list[int]] = tokenizer(lines, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return found


def _to_predict(rows: Tensor, task: Task, tokenizer: PreTrainedTokenizerBase, generator: torch.Generator) -> Batch:
    if task.kind != MASKED:
        return {"input_ids": rows, LABELS: rows}
    inner = rows.shape[1] - 2
    count = max(1, round(MASKED_SHARE * inner))
    places = 1 + torch.rand(len(rows), inner, generator=generator).argsort(1)[:, :count]
    labels = torch.full_like(rows, IGNORED).scatter(1, places, rows.gather(1, places))
    inputs = rows.scatter(1, places, int(tokenizer.mask_token_id))
    return {"input_ids": inputs, "attention_mask": torch.ones_like(rows), LABELS: labels}
