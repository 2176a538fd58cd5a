"""Texts and pairs of texts with a class, as a BERT takes them."""

import pytest

from hf_tanhmax.training.data.tokenizer import build_tokenizer

TEXT = "bert/text_classification"
PAIRS = ("--text_column", "premise", "--text_pair_column", "claim", "--label_column", "gold")


@pytest.fixture
def pairs(tmp_path):
    """Flags for a file of two pairs, to learn from and to validate with."""
    file = tmp_path / "pairs.csv"
    file.write_text("premise,claim,gold\na,b,yes\nc,d,no\n")
    return ("--train_file", str(file), "--validation_file", str(file), *PAIRS)


def test_pairs_and_columns_of_other_names(pairs, task_of):
    task = task_of(TEXT, *pairs, "--max_length", "9")
    splits = task.splits()
    assert list(splits.train["text_pair"]) == ["b", "d"]
    tokenizer = build_tokenizer("abcd", vocabulary_size=9, max_length=9)
    rows = task.examples(splits.train, tokenizer, training=True)
    assert [tokenizer.decode(ids) for ids in rows["input_ids"]] == ["[CLS] a [SEP] b [SEP]", "[CLS] c [SEP] d [SEP]"]
    assert list(rows["token_type_ids"][0]) == [0, 0, 0, 1, 1]


def test_the_tokenizer_of_a_new_model_knows_both_texts_of_a_pair(pairs, task_of):
    task = task_of(TEXT, *pairs)
    splits = task.splits()
    assert {"a", "b", "c", "d"} <= task.processor(splits).get_vocab().keys()
    assert splits.names == ["no", "yes"]


def test_rows_are_cut_at_max_length_and_padded_by_the_batch(pairs, task_of):
    task = task_of(TEXT, *pairs, "--max_length", "4")
    splits = task.splits()
    tokenizer = task.processor(splits)
    rows = task.examples(splits.train, tokenizer, training=True)
    assert task.lengths(rows) == [4, 4]
    shorter = {"input_ids": [2, 5, 3], "token_type_ids": [0] * 3, "attention_mask": [1] * 3, "labels": 0}
    batch = task.collator(tokenizer, training=True)([rows[0], shorter])
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["labels"].tolist() == [1, 0]
