"""A twin of a model: another model of the same shape and the same tokenizer, explained beside it. The usual one computes softmax.

What is shown side by side must be comparable: the same tokens, layers, heads and target. Everything else is refused.
"""

from typing import TypeAlias

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .encoding import IDS, ImageProcessor, ModelInput
from .word_alignment import token_texts

# The model alone, or with the tokenizer or image processor that it was saved with, which is then checked.
Twin: TypeAlias = nn.Module | tuple[nn.Module, PreTrainedTokenizerBase | ImageProcessor]
SHOWN = 8  # tokens of a text that two tokenizers read differently
SAME_TOKENIZER = "give a twin of the same tokenizer"


def split_twin(twin: Twin) -> tuple[nn.Module, PreTrainedTokenizerBase | ImageProcessor | None]:
    """The model, and its tokenizer or image processor if there is one.

    Raises:
        TypeError: it is neither a model nor a pair.
    """
    pair = twin if isinstance(twin, tuple) else (twin, None)
    if len(pair) != 2 or not isinstance(pair[0], nn.Module):
        raise TypeError(f"twin must be a model, or a model and its tokenizer, but is {type(twin).__name__}")
    return pair[0], pair[1]


def check_same_tokens(
    model: PreTrainedModel,
    twin: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    twin_tokenizer: PreTrainedTokenizerBase | ImageProcessor | None,
    inputs: ModelInput,
) -> None:
    """Refuse a twin that would read other tokens.

    Args:
        model: that is explained.
        twin: of it.
        tokenizer: of the model.
        twin_tokenizer: of the twin; None if it is not known, and then the sizes of both vocabularies must agree.
        inputs: that both read.

    Raises:
        ValueError: it has another tokenizer or a vocabulary of another size.
    """
    sizes = [getattr(each.config.get_text_config(), "vocab_size", None) for each in (model, twin)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"the twin knows {sizes[1]} tokens and the model {sizes[0]}, so they have unequal tokenizers; {SAME_TOKENIZER}")
    if tokenizer is None or not isinstance(twin_tokenizer, PreTrainedTokenizerBase):
        return
    texts = inputs if isinstance(inputs, tuple) else (inputs,)
    if all(isinstance(text, str) for text in texts):
        read = [token_texts(each, each(*texts, verbose=False)[IDS]) for each in (tokenizer, twin_tokenizer)]
        if read[0] != read[1]:
            ours, theirs = (" ".join(tokens[:SHOWN]) + (" …" if tokens[SHOWN:] else "") for tokens in read)
            raise ValueError(f"the twin has another tokenizer, which reads {theirs} where the model reads {ours}; {SAME_TOKENIZER}")
    if tokenizer.get_vocab() != twin_tokenizer.get_vocab():
        raise ValueError(f"the twin has another tokenizer: the same tokens have other numbers in its vocabulary; {SAME_TOKENIZER}")
