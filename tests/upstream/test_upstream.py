"""The test suite that Transformers runs on every model of its own, on every head of architectures of each kind.

`test_eager_matches_sdpa_inference` and its kind compare here the reference with the fused implementation, as the two names mean that.
What is overridden stands in the class of its architecture, with the reason.
"""

import unittest

import pytest
import torch
from upstream_mixins import BATCH, LENGTH, WORDS, Decoder, Encoder, Generates, Images, Upstream

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}

# Warnings are errors in our tests; what these tests warn of is not ours.
pytestmark = [pytest.mark.upstream, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class TestBert(Encoder, Generates, unittest.TestCase, of="bert"):
    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """The mixin knows no head with two losses; upstream's test of BERT does the same."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class is self.heads["AutoModelForPreTraining"]:
            inputs["labels"] = torch.zeros(BATCH, LENGTH, dtype=torch.long)
            inputs["next_sentence_label"] = torch.zeros(BATCH, dtype=torch.long)
        return inputs


class TestRoberta(Encoder, Generates, unittest.TestCase, of="roberta"):
    pass


class TestDistilBert(Upstream, unittest.TestCase, of="distilbert", **WORDS, dim=32, n_heads=4, n_layers=2, hidden_dim=37):
    pass


class TestModernBert(Encoder, unittest.TestCase, of="modernbert", **SPECIAL):
    pass


class TestViT(Images, unittest.TestCase, of="vit", encoder_stride=6):
    pass


class TestDeiT(Images, unittest.TestCase, of="deit", encoder_stride=6, sizes={"seq_length": 27}):
    pass


class TestDinov2(Images, unittest.TestCase, of="dinov2", mlp_ratio=2):
    pass


class TestLlama(Decoder, unittest.TestCase, of="llama"):
    pass


class TestMistral(Decoder, unittest.TestCase, of="mistral"):
    pass


class TestQwen2(Decoder, unittest.TestCase, of="qwen2"):
    pass


class TestQwen3(Decoder, unittest.TestCase, of="qwen3", head_dim=8):
    pass


class TestGemma3Text(Decoder, unittest.TestCase, of="gemma3_text", head_dim=8):
    pass


class TestPhi3(Decoder, unittest.TestCase, of="phi3"):
    pass
