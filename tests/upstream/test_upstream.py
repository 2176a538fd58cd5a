"""The test suite that Transformers runs on every model of its own, on every head of architectures of each kind.

`test_eager_matches_sdpa_inference` and its kind compare here the reference with the fused implementation, as the two names mean that.
What is overridden stands in the class of its architecture, with the reason.
"""

import unittest

import pytest
import torch
from thorough import THOROUGH
from upstream_mixins import BATCH, LENGTH, WORDS, Decoder, Encoder, Generates, Images, Upstream

LONG = {"test_training_overfit": "it takes long, and LLaMA's covers what it runs: HF_TANHMAX_THOROUGH=1 runs it"}
REPEATED = {} if THOROUGH else LONG


def covered_by(others):
    """Skip a class of tests, unless all are asked for."""
    return unittest.skipUnless(THOROUGH, f"{others} cover what it runs: HF_TANHMAX_THOROUGH=1 runs it")


ROTARY = {
    "test_model_rope_scaling": "a rotary embedding per type of layer, which the mixin does not expect; it fails with stock classes too"
}
DINOV2 = {
    "test_retain_grad": "the first output of a backbone is a tuple, which the mixin does not expect; it fails with stock classes too",
    "test_reverse_loading_mapping": "it wants the weights of a SwiGLU, which this config has not; it fails with stock classes too",
    "test_training_gradient_checkpointing": "without masks the mask token has no gradient; it fails with stock classes too",
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_heads": 4, "num_layers": 2, "decoder_start_token_id": 0}
GENERATING = ("AutoModel", "AutoModelForSeq2SeqLM")  # the others have an encoder alone, or other inputs
BLOCKS = {"test_model_base_model_prefix": "the generating head has its own encoder and decoder; it fails with stock classes too"}
SIDES = {"encoder_seq_length": LENGTH, "decoder_seq_length": LENGTH}

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


@covered_by("BERT's")
class TestRoberta(Encoder, Generates, unittest.TestCase, of="roberta"):
    pass


@covered_by("BERT's")
class TestDistilBert(Upstream, unittest.TestCase, of="distilbert", **WORDS, dim=32, n_heads=4, n_layers=2, hidden_dim=37):
    pass


class TestModernBert(Encoder, unittest.TestCase, of="modernbert", **SPECIAL):
    pass


class TestViT(Images, unittest.TestCase, of="vit", encoder_stride=6):
    pass


@covered_by("ViT's")
class TestDeiT(Images, unittest.TestCase, of="deit", encoder_stride=6, sizes={"seq_length": 27}):
    pass


class TestDinov2(Images, unittest.TestCase, of="dinov2", mlp_ratio=2, skips=DINOV2):
    pass


class TestLlama(Decoder, unittest.TestCase, of="llama"):
    pass


@covered_by("LLaMA's, Qwen3's and Gemma's")
class TestMistral(Decoder, unittest.TestCase, of="mistral", skips=REPEATED):
    pass


@covered_by("LLaMA's, Qwen3's and Gemma's")
class TestQwen2(Decoder, unittest.TestCase, of="qwen2", skips=REPEATED):
    pass


class TestQwen3(Decoder, unittest.TestCase, of="qwen3", head_dim=8, skips=REPEATED):
    pass


class TestGemma3Text(Decoder, unittest.TestCase, of="gemma3_text", head_dim=8, skips={**ROTARY, **REPEATED}):
    pass


@covered_by("LLaMA's, Qwen3's and Gemma's")
class TestPhi3(Decoder, unittest.TestCase, of="phi3", skips=REPEATED):
    pass


class TestT5(Upstream, Generates, unittest.TestCase, of="t5", heads=GENERATING, **T5, sizes=SIDES, skips=BLOCKS):
    is_encoder_decoder = True

    def inputs(self):
        """Of both sides."""
        return super().inputs() | {f"decoder_{name}": value for name, value in super().inputs().items()}


class TestClipText(Encoder, unittest.TestCase, of="clip_text_model", projection_dim=32, **SPECIAL):
    pass


class TestClipVision(Images, unittest.TestCase, of="clip_vision_model", projection_dim=32):
    pass
