"""Tokenizers that are built, and those of checkpoints."""

import pytest
from tiny_tokenizers import TALK, byte_pieces, chat_tokenizer
from transformers import AutoTokenizer

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.data.tokenizer import SPECIAL, build_causal_tokenizer, build_tokenizer, load_tokenizer


def test_the_tokenizer_knows_the_most_frequent_words_and_survives_a_save(tmp_path):
    tokenizer = build_tokenizer(["B a b, c!", "b A z"], vocabulary_size=3, max_length=7)
    assert sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get) == [*SPECIAL, "b", "a", "!"]
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert tokenizer("b zzz A").input_ids == again("b zzz A").input_ids == [2, 5, 1, 6, 3]
    assert again.model_max_length == 7


def test_bytes_come_back_and_the_tokenizer_survives_a_save(tmp_path):
    tokenizer = chat_tokenizer()
    text = "Ünïcode,  two spaces\n\tand a tab"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.apply_chat_template(TALK, tokenize=False) == tokenizer.apply_chat_template(TALK, tokenize=False)


def test_bytes_and_special_tokens_are_there_whatever_the_size():
    least = len(build_causal_tokenizer(["abab"], vocabulary_size=1, max_length=7))
    assert least == 256 + 3
    assert len(build_causal_tokenizer(["abab"], vocabulary_size=least + 1, max_length=7)) == least + 1


def test_a_tokenizer_without_padding_pads_with_its_end_token(tmp_path):
    byte_pieces().save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token is None
    assert load_tokenizer(str(tmp_path)).pad_token == "</s>"


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path):
    tokenizer = byte_pieces()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"the tokenizer of '.*' has no padding token, which batches need"):
        load_tokenizer(str(tmp_path))


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=f"'{tmp_path}' has no tokenizer: "):
        load_tokenizer(str(tmp_path))
