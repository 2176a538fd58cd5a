"""Fast tokenizers of a few words, as BERT's (WordPiece) and as LLaMA's (bytes), made without a download; and a conversation for one."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_tanhmax.training.data.tokenizer import build_causal_tokenizer

PIECES = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "good",
    "bad",
    "film",
    "not",
    "don",
    "'",
    "t",
    ",",
    ".",
    "un",
    "##watch",
    "##able",
)
TALK = [
    {"role": "user", "content": "1 plus 1?"},
    {"role": "assistant", "content": "2."},
    {"role": "user", "content": "and 2?"},
    {"role": "assistant", "content": "4."},
]


def word_pieces(**changes) -> PreTrainedTokenizerFast:
    vocabulary = {piece: index for index, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names, **changes)


def byte_pieces() -> PreTrainedTokenizerFast:
    """Bytes, and the merge of "Ġ" with "a"; 1 begins and 2 ends a text."""
    alphabet = [*"abdfgilmnotw", "Ġ", "Ċ", "Ã", "©"]
    vocabulary = {piece: index for index, piece in enumerate(["<unk>", "<s>", "</s>", *alphabet, "Ġa"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[("Ġ", "a")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Of a decoder, over the words of `TALK`."""
    return build_causal_tokenizer([message["content"] for message in TALK], vocabulary_size=300, max_length=99)
