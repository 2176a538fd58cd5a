"""Tokenizers: a checkpoint's own, or built from training texts for a model from scratch."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ...errors import RecipeError, one_line

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CAUSAL_SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>"]
# ChatML: the form that the tokenizers of many small models have.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint; one that has no padding token, as those of many decoders, pads with its end token.

    Raises:
        RecipeError: a checkpoint without a tokenizer, or one that has neither token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{name!r} has no tokenizer: {one_line(error, 300)}") from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise RecipeError(f"the tokenizer of {name!r} has no padding token, which batches need")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def build_tokenizer(texts: Iterable[str], *, vocabulary_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """For an encoder: lower case, split at spaces and punctuation, the most frequent words after the five special tokens of BERT.

    Args:
        texts: training texts; words that come equally often are in alphabetical order.
        vocabulary_size: words beside the special tokens.
        max_length: tokens that the model has positions for.
    """
    normalizer, splitter = BertNormalizer(), BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    words = sorted(counts, key=lambda word: (-counts[word], word))[:vocabulary_size]
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def build_causal_tokenizer(texts: Iterable[str], *, vocabulary_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """For a decoder: byte-pair encoding over bytes, so that any text can be encoded and decoded again, with the ChatML template.

    Args:
        texts: training texts.
        vocabulary_size: tokens in all; the bytes and special tokens are there even if this is less.
        max_length: tokens that the model has positions for.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=vocabulary_size, special_tokens=CAUSAL_SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    pad, begin, end = CAUSAL_SPECIAL
    built = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token=pad,
        bos_token=begin,
        eos_token=end,
        model_input_names=["input_ids", "attention_mask"],
    )
    built.chat_template = CHATML
    return built
