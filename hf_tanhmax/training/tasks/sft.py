"""Supervised fine-tuning on conversations in the model's chat template, with a loss on the assistant's tokens only."""

from pathlib import Path
from typing import TypeGuard, cast

from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase

from ...errors import RecipeError
from ..configuration.schema import SFTConfig
from ..data.rows import Splits, assembled, check_columns, raw_splits
from ..data.synthetic import synthetic_conversations
from ..data.tokenizer import build_causal_tokenizer, load_tokenizer
from .losses import IGNORED
from .task import Collator
from .text import NextTokenPrediction

Message = dict[str, str]


class SFT(NextTokenPrediction):
    """LLaMA with its head for the next token, and a loss on the assistant's turns only."""

    config: SFTConfig

    def check(self) -> None:
        """Refuse a chat template that is not there."""
        template = self.config.chat_template
        if template is not None and not Path(template).is_file():
            raise RecipeError(f"chat_template does not exist: {template}")

    def splits(self) -> Splits:
        """Rows with `messages`, lists of `{"role", "content"}` in which the assistant speaks."""
        column, tables = self.config.messages_column, {}
        for split, rows in raw_splits(self.config, lambda: _conversations(column)).items():
            check_columns(split, rows, self.config, ("messages_column",))
            for number, messages in enumerate(rows[column], start=1):
                _check_messages(messages, f"row {number} of the {split} data")
            tables[split] = Dataset.from_dict({"messages": [[_plain(message) for message in messages] for messages in rows[column]]})
        return assembled(self.config, tables)

    def processor(self, splits: Splits) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, or one built from the training conversations.

        Raises:
            RecipeError: a tokenizer without a chat template, and none in the recipe.
        """
        config = self.config
        if config.model_name_or_path is not None:
            tokenizer = load_tokenizer(config.model_name_or_path)
        else:
            texts = [message["content"] for messages in splits.train["messages"] for message in messages]
            tokenizer = build_causal_tokenizer(texts, vocabulary_size=config.vocabulary_size, max_length=config.max_length)
        if config.chat_template is not None:
            tokenizer.chat_template = Path(config.chat_template).read_text(encoding="utf-8")
        if tokenizer.chat_template is None:
            raise RecipeError(f"the tokenizer of {config.model_name_or_path!r} has no chat template; give a Jinja file: chat_template")
        return tokenizer

    def examples(self, rows: Dataset, processor: PreTrainedTokenizerBase, *, training: bool) -> Dataset:
        """`input_ids` and `labels`, which are -100 outside of what the assistant says.

        Raises:
            RecipeError: a template that is not built up turn by turn, or cuts that leave nothing to learn.
        """

        def encode(row: dict[str, list[Message]]) -> dict[str, list[int]]:
            ids, labels = conversation_tokens(processor, row["messages"])
            return {"input_ids": ids[: self.config.max_length], "labels": labels[: self.config.max_length]}

        options = {"desc": "tokens", "load_from_cache_file": False, "keep_in_memory": True}
        made = rows.map(encode, remove_columns=rows.column_names, **options)
        kept = made.filter(lambda row: any(label != IGNORED for label in row["labels"]), load_from_cache_file=False, keep_in_memory=True)
        if not len(kept):
            raise RecipeError(f"max_length is {self.config.max_length}, which cuts every conversation before the assistant speaks")
        return kept

    def collator(self, processor: PreTrainedTokenizerBase, *, training: bool) -> Collator:
        """Pads to the longest row."""
        return DataCollatorForSeq2Seq(processor, padding=True, label_pad_token_id=IGNORED)


def conversation_tokens(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> tuple[list[int], list[int]]:
    """Tokens of a conversation, and the same as labels where the assistant speaks, else -100.

    A turn of the assistant is what the template adds to the conversation before it and the prompt to answer.

    Raises:
        RecipeError: a template in which a turn changes what stands before it.
    """

    def tokens(turns: list[Message], *, prompt: bool = False) -> list[int]:
        return cast(list[int], tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=prompt, return_dict=False))

    ids = tokens(messages)
    labels = [IGNORED] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = tokens(messages[:turn], prompt=True), tokens(messages[: turn + 1])
        if ids[: len(after)] != after or after[: len(before)] != before:
            raise RecipeError("the chat template changes earlier turns when a later one is added, so the assistant's words cannot be told")
        labels[len(before) : len(after)] = after[len(before) :]
    labels[0] = IGNORED
    return ids, labels


def _check_messages(messages: object, where: str) -> None:
    if not _is_conversation(messages):
        shown = repr(messages)
        raise RecipeError(f"{where} must hold a list of {{role, content}}, but holds {shown[:80]}{'...' if len(shown) > 80 else ''}")
    if all(message["role"] != "assistant" for message in messages):
        raise RecipeError(f"{where} has no turn of the assistant to learn from")
    if messages[0]["role"] == "assistant":
        raise RecipeError(f"{where} begins with the assistant, who has nothing to answer yet")


def _is_conversation(messages: object) -> TypeGuard[list[Message]]:
    return isinstance(messages, list) and all(
        isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content")) for message in messages
    )


def _plain(message: Message) -> Message:
    return {"role": message["role"], "content": message["content"]}


def _conversations(column: str) -> dict[str, Dataset]:
    return {split: Dataset.from_dict({column: rows}) for split, rows in synthetic_conversations().items()}
