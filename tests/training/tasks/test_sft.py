"""Conversations: what is learned of them, and every way in which one can be wrong."""

import json

import pytest
from datasets import Dataset
from tiny_tokenizers import TALK, chat_tokenizer

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.tasks.losses import IGNORED
from hf_tanhmax.training.tasks.sft import conversation_tokens


@pytest.fixture
def tokenizer():
    return chat_tokenizer()


def test_what_the_assistant_says_is_learned_and_nothing_else(tokenizer):
    ids, labels = conversation_tokens(tokenizer, TALK)
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(TALK, tokenize=False)
    assert tokenizer.decode([label for label in labels if label != IGNORED]) == "2.<|im_end|>\n4.<|im_end|>\n"
    assert all(label in (token, IGNORED) for token, label in zip(ids, labels, strict=True))


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(RecipeError, match="the chat template changes earlier turns when a later one is added"):
        conversation_tokens(tokenizer, TALK)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "row 1 of the train data must hold a list of {role, content}, but holds 'hello'"),
        ([{"role": "user"}], "must hold a list of {role, content}"),
        (TALK[:1], "row 1 of the train data has no turn of the assistant to learn from"),
        (TALK[1:], "begins with the assistant"),
    ],
)
def test_rows_that_are_no_conversations_are_refused(messages, message, tmp_path, task_of):
    (tmp_path / "talk.jsonl").write_text("\n".join([json.dumps({"messages": messages})] * 2))
    with pytest.raises(RecipeError, match=message):
        task_of("llama/sft", "--train_file", str(tmp_path / "talk.jsonl")).splits()


def test_conversations_that_are_cut_before_the_answer_are_refused(tokenizer, task_of):
    rows = Dataset.from_dict({"messages": [TALK]})
    with pytest.raises(RecipeError, match="max_length is 3, which cuts every conversation before the assistant speaks"):
        task_of("llama/sft", "--max_length", "3").examples(rows, tokenizer, training=True)


def test_a_chat_template_is_a_file(tmp_path, train):
    code, said, _ = train("tanhmax", "--chat_template", str(tmp_path / "none.jinja"), task="llama/sft")
    assert code == 2
    assert "chat_template does not exist" in said


def test_a_recipe_may_give_a_chat_template_and_must_where_the_tokenizer_has_none(tokenizer, task_of, tmp_path):
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "own.jinja").write_text("{{ messages | length }}")
    flags = ("--model_name_or_path", str(tmp_path / "model"))
    splits = task_of("llama/sft").splits()
    processor = task_of("llama/sft", *flags, "--chat_template", str(tmp_path / "own.jinja")).processor(splits)
    assert processor.apply_chat_template(TALK, tokenize=False) == "4"
    with pytest.raises(RecipeError, match=r"the tokenizer of '.*' has no chat template; give a Jinja file: chat_template"):
        task_of("llama/sft", *flags).processor(splits)
