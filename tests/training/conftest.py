"""Fixtures of tiny runs, and of the checkpoints that they start from."""

import pytest
import torch
from tiny_runs import launched, softmax_start, tiny_flags, train, variant  # noqa: F401
from transformers import BertConfig, BertForSequenceClassification

from hf_tanhmax.training.data.tokenizer import build_tokenizer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A softmax checkpoint with its tokenizer, small and random."""
    folder = str(tmp_path_factory.mktemp("checkpoint"))
    tokenizer = build_tokenizer([" ".join(f"w{word}" for word in range(43))], vocabulary_size=43, max_length=17)
    sizes = {"hidden_size": 10, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 14, "max_position_embeddings": 23}
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
