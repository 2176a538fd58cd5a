"""What a model is calibrated with, as batches of its inputs: from texts, pictures, rows of a data set, or batches that are ready.

Rows are encoded when they are asked for, so that memory does not grow with them. For a model that predicts the next token, texts are put
end to end and cut into pieces of one length, as in its training: padding would be wasted on it.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...checkpoint import length_limit, read_checkpoint
from ...processors import knows_words
from ..runner import Batch, check_batch
from .quality import is_language_model

ROWS, TOKENS = 32, 2048  # of one batch: texts or pictures; of pieces of text
LENGTH = 512  # tokens of a piece of text
IMAGE_COLUMNS = ("image", "img", "picture")


class Batches(Sequence[Batch]):
    """Batches that are made when they are asked for.

    Args:
        rows: with a length, by index.
        size: how many of them make a batch.
        encode: makes the batch.
    """

    def __init__(self, rows: Any, size: int, encode: Callable[[list[Any]], Batch]) -> None:
        self.rows, self.size, self.encode = rows, size, encode

    def __len__(self) -> int:
        """How many batches."""
        return math.ceil(len(self.rows) / self.size)

    def __getitem__(self, index: Any) -> Any:
        """One batch, or those of a slice."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        chosen = range(index * self.size, min((index + 1) * self.size, len(self.rows)))
        return self.encode([self.rows[each] for each in chosen])


def calibration_batches(
    model: PreTrainedModel,
    data: Any,
    processor: Any = None,
    *,
    source: str | None = None,
    place: Mapping[str, object] | None = None,
    length: int | None = None,
    batch_size: int | None = None,
) -> Sequence[Batch]:
    """Batches of a model's inputs.

    Args:
        model: what they are for.
        data: texts, pictures, rows with a column of one of these or of encoded inputs (a `datasets.Dataset` or a list of mappings), or
            batches, which stay as they are.
        processor: the tokenizer or image processor; batches need none.
        source: the checkpoint whose tokenizer or image processor is read if one is needed and not given.
        place: arguments of `from_pretrained` that say where that is: `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`.
        length: tokens at most, or of a piece of text for a model that predicts the next token; None is what the model reads, or 512.
        batch_size: rows of one batch; None is 32, or pieces of 2,048 tokens in all.

    Texts for an encoder and a decoder are read by the one and written by the other.

    Raises:
        ValueError: nothing, inputs for another kind of model, no processor where one is needed, or rows that do not say what to read.
        TypeError: something else.
    """
    if isinstance(data, Mapping | str) or not isinstance(data, Iterable):
        raise TypeError(
            f"calibrate with a list of texts, pictures or batches, or a datasets.Dataset, but not with a {type(data).__name__}; for one "
            "batch pass [batch]"
        )
    rows: Any = data if hasattr(data, "__len__") and hasattr(data, "__getitem__") else list(data)
    if len(rows) == 0:
        raise ValueError("there is nothing to calibrate with; give some inputs, such as 256 texts in all")
    first, pictures = rows[0], getattr(model, "main_input_name", "input_ids") == "pixel_values"
    read = functools.cache(lambda: processor or _processor_of(source, place or {}, pictures=pictures))
    if isinstance(first, Mapping):
        if _is_batch(first):
            return list(rows)
        column, kind = _column(first, model)
        if kind == "encoded":
            return Batches(rows, batch_size or ROWS, lambda each: _padded(each, read()))
        rows = rows[column] if hasattr(rows, "column_names") else [row[column] for row in rows]
        first = rows[0]
    if isinstance(first, str) == pictures:
        wanted, noun = ("pictures", "texts") if pictures else ("texts", "pictures")
        if not isinstance(first, str) and not _is_picture(first):
            check_batch(first)
        raise ValueError(f"{type(model).__name__} reads {wanted}, but it is to be calibrated with {noun}; give it some of its own kind")
    processor = read()
    if processor is None:
        noun, maker = ("an image processor", "AutoImageProcessor") if pictures else ("a tokenizer", "AutoTokenizer")
        raise ValueError(f"to calibrate with these rows takes {noun}; pass processor={maker}.from_pretrained(...), or batches of inputs")
    if pictures:
        return Batches(rows, batch_size or ROWS, lambda each: processor(images=each, return_tensors="pt"))
    limit = length_limit(model, processor)
    if is_language_model(model):
        pieces = pack(rows, processor, min(length or LENGTH, limit or LENGTH))
        return Batches(pieces, batch_size or max(1, TOKENS // len(pieces[0])), lambda each: {"input_ids": torch.stack(each)})
    longest = min((each for each in (length, limit) if each is not None), default=None)

    def _encoded(each: list[str]) -> Batch:
        batch = processor(each, padding=True, truncation=longest is not None, max_length=longest, return_tensors="pt")
        return _with_decoder_inputs(model, batch) if getattr(model.config, "is_encoder_decoder", False) else batch

    return Batches(rows, batch_size or ROWS, _encoded)


def pack(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, length: int) -> list[Tensor]:
    """Texts end to end, with the token for the end of a text between them, in pieces of `[length]` tokens; what is left over is dropped.

    Where the tokenizer begins every text with a token of its own, every piece begins with it.

    Raises:
        ValueError: fewer tokens than one piece.
    """
    begin = [each for each in tokenizer("").input_ids if each != tokenizer.eos_token_id][:1]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    size, tokens, pieces = length - len(begin), [], []
    for text in texts:
        tokens += [*tokenizer(text, add_special_tokens=False, verbose=False).input_ids, *end]
        while len(tokens) >= size:
            pieces.append(torch.tensor(begin + tokens[:size]))
            tokens = tokens[size:]
    if not pieces:
        raise ValueError(
            f"the texts have {len(tokens)} tokens in all, which is less than one piece of {length}; give more text, or a smaller length"
        )
    return pieces


def _with_decoder_inputs(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Batch:
    """What an encoder and a decoder read of texts: the decoder writes what the encoder reads, from the token on that it starts with."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    settings = (getattr(model, "generation_config", None), model.config)
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    start = next((found for name in names for each in settings if isinstance(found := getattr(each, name, None), int)), 0)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "decoder_input_ids": torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], dim=1),
        "decoder_attention_mask": mask,
    }


def _processor_of(source: str | None, place: Mapping[str, object], *, pictures: bool) -> Any:
    """The tokenizer or image processor of a checkpoint; None where there is none that can be loaded."""
    if source is None:
        return None
    try:
        found = read_checkpoint(source).processor("image" if pictures else "text", place=place)
        return found if knows_words(found) else None
    except (ImportError, OSError, TypeError, ValueError):
        return None


def _is_batch(values: Mapping[str, Any]) -> bool:
    """Whether a mapping holds several inputs, or else one."""
    dimensions = {"input_ids": 2, "inputs_embeds": 3, "pixel_values": 4}
    for name, batched in dimensions.items():
        if isinstance(values.get(name), Tensor):
            return bool(values[name].dim() >= batched or (name == "pixel_values" and values[name].dim() == 2))  # the patches of several
    return not any(_is_of_one(value) for value in values.values())


def _is_of_one(value: object) -> bool:
    """Whether a value is of one input: a text, a picture, or a list of numbers."""
    return isinstance(value, str) or _is_picture(value) or (isinstance(value, list) and not all(isinstance(each, Tensor) for each in value))


def _column(row: Mapping[str, Any], model: PreTrainedModel) -> tuple[str, str]:
    """The column of a row to read, and whether it is raw or encoded."""
    name = getattr(model, "main_input_name", "input_ids")
    if name in row:
        return name, "encoded"
    pictures = name == "pixel_values"
    columns = [column for column, value in row.items() if (_is_picture(value) if pictures else isinstance(value, str))]
    usual = IMAGE_COLUMNS if pictures else ("text",)
    found = next((column for column in usual if column in columns), columns[0] if len(columns) == 1 else None)
    if found is None:
        what, several = ("pictures", "several columns of pictures") if pictures else ("texts", "several columns of texts")
        reason = f"{several} ({', '.join(columns)}); keep one of them" if columns else f"no {what} in its columns {', '.join(row)}"
        raise ValueError(f"{type(model).__name__} reads {what}, but a row to calibrate with has {reason}")
    return found, "raw"


def _padded(rows: list[Mapping[str, Any]], processor: Any) -> Batch:
    """Encoded rows as one batch."""
    if "input_ids" not in rows[0]:
        return {"pixel_values": torch.stack([torch.as_tensor(row["pixel_values"]) for row in rows])}
    known = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    kept = [{key: torch.as_tensor(row[key]).tolist() for key in known if key in row} for row in rows]
    if processor is None and len({len(row["input_ids"]) for row in kept}) > 1:
        raise ValueError("encoded rows of different lengths need their tokenizer, which pads them; pass processor=, or batches of inputs")
    return (
        {key: torch.tensor([row[key] for row in kept]) for key in kept[0]}
        if processor is None
        else processor.pad(kept, return_tensors="pt")
    )


def _is_picture(value: object) -> bool:
    return type(value).__module__.startswith("PIL.")
