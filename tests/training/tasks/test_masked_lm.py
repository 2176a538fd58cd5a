"""Masked language modelling: which tokens are hidden, and when."""

import pytest
import torch
from datasets import Dataset
from tiny_tokenizers import chat_tokenizer

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.data.tokenizer import build_tokenizer
from hf_tanhmax.training.tasks.losses import IGNORED


def test_hidden_tokens_are_the_same_in_every_evaluation_and_others_in_every_batch_of_training(task_of):
    task = task_of("bert/masked_lm", "--max_length", "17")
    rows = Dataset.from_dict({"text": [" ".join(f"w{number}" for number in range(13))] * 5})
    tokenizer = build_tokenizer(rows["text"], vocabulary_size=99, max_length=17)
    first, again = (task.examples(rows, tokenizer, training=False) for _ in range(2))
    assert first["input_ids"] == again["input_ids"]
    assert first["labels"] == again["labels"]
    hidden = [label for labels in first["labels"] for label in labels if label != IGNORED]
    assert 0 < len(hidden) < 40
    examples = task.examples(rows, tokenizer, training=True)
    collate = task.collator(tokenizer, training=True)
    batches = [collate([examples[row] for row in range(5)]) for _ in range(2)]
    assert not torch.equal(batches[0]["labels"], batches[1]["labels"])


def test_a_tokenizer_without_a_mask_token_is_refused(task_of, tmp_path):
    chat_tokenizer().save_pretrained(tmp_path)
    task = task_of("bert/masked_lm", "--model_name_or_path", str(tmp_path))
    with pytest.raises(RecipeError, match=f"the tokenizer of '{tmp_path}' has no mask token, which this task needs"):
        task.processor(task.splits())
