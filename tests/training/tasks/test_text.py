"""Text as rows: documents, lines and paragraphs; and the models that predict its tokens."""

import pytest
import torch
from tiny_tokenizers import chat_tokenizer
from transformers import BertConfig, LlamaConfig

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.tasks.metrics import reduced_tokens


def test_a_single_document_is_divided_at_a_line(tmp_path, task_of):
    text = "\n".join(f"line {number}" for number in range(100))
    (tmp_path / "book.txt").write_text(text)
    splits = task_of("llama/causal_lm", "--train_file", str(tmp_path / "book.txt")).splits()
    assert splits.train[0]["text"] + splits.validation[0]["text"] == text
    assert splits.validation[0]["text"].startswith("line ")
    assert len(splits.validation[0]["text"]) == pytest.approx(len(text) / 10, abs=8)


@pytest.mark.parametrize(
    ("contents", "message"),
    [("short", "is one short document, which cannot be divided"), (" \n \n", "the train data has no text")],
)
def test_a_file_without_enough_text_is_refused(contents, message, tmp_path, task_of):
    (tmp_path / "book.txt").write_text(contents)
    with pytest.raises(RecipeError, match=message):
        task_of("llama/causal_lm", "--train_file", str(tmp_path / "book.txt")).splits()


def test_lines_and_paragraphs_can_be_rows(tmp_path, task_of):
    (tmp_path / "lines.txt").write_text("a\nb\n\nc\nd\n")
    flags = ["--train_file", str(tmp_path / "lines.txt"), "--validation_file", str(tmp_path / "lines.txt")]
    assert len(task_of("bert/masked_lm", *flags, "--sample_by", "line").splits().train) == 4
    assert len(task_of("bert/masked_lm", *flags).splits().train) == 2


def test_rows_that_are_longer_than_the_positions_of_a_checkpoint_are_refused(task_of):
    task = task_of("llama/causal_lm", "--max_length", "24")
    task.check_checkpoint("you/model", LlamaConfig(max_position_embeddings=24))
    with pytest.raises(RecipeError, match="max_length is 24, but you/model has positions for 23 tokens"):
        task.check_checkpoint("you/model", LlamaConfig(max_position_embeddings=23))


@pytest.mark.parametrize(("name", "config_class"), [("llama/causal_lm", LlamaConfig), ("bert/masked_lm", BertConfig)])
def test_sizes_are_fields_of_the_config_and_fit_the_tokenizer(name, config_class, task_of):
    tokenizer = chat_tokenizer()
    sizes = task_of(name, "--max_length", "17", "--dropout", "0.25").sizes(tokenizer, None)
    assert sizes.keys() <= config_class().to_dict().keys()
    assert (sizes["vocab_size"], sizes["pad_token_id"]) == (len(tokenizer), tokenizer.pad_token_id)
    assert sizes["max_position_embeddings"] >= 17
    assert {value for key, value in sizes.items() if "dropout" in key} == {0.25}


def test_logits_of_a_decoder_are_for_the_next_token_and_those_of_an_encoder_for_their_own(task_of):
    logits, labels = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    decoder, encoder = (task_of(name).reduce((logits, None), labels) for name in ("llama/causal_lm", "bert/masked_lm"))
    torch.testing.assert_close(decoder, reduced_tokens(logits[:, :-1], labels[:, 1:]))
    torch.testing.assert_close(encoder, reduced_tokens(logits, labels))
