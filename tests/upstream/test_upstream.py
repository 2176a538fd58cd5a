"""The test suite that Transformers runs on every model of its own, on every head of the three families.

`test_eager_matches_sdpa_inference` and its kind compare here the reference with the fused implementation, as the two names mean that.
What is overridden stands in the class of its family, with the reason.
"""

import unittest
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from unittest.mock import patch

import pytest
import torch
import transformers
from families import FAMILIES
from sdist import mixins

import hf_tanhmax

modeling, configuration, training = mixins()

# Warnings are errors in our tests; what these tests warn of is not ours.
pytestmark = [pytest.mark.upstream, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

BATCH, LENGTH, VOCABULARY, HIDDEN, HEADS, LAYERS = 3, 7, 99, 32, 4, 2
COMMON = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "intermediate_size": 37}


@pytest.fixture(autouse=True, scope="module")
def _labels_by_name():
    """The mixins choose labels by the class name of a head, which they look up in these tables."""
    patches = [
        patch.dict(getattr(transformers, auto)._model_mapping._model_mapping, {config.model_type: cls.__name__})
        for config, heads in FAMILIES.items()
        for auto, cls in heads.items()
    ]
    for each in patches:
        each.start()
    yield
    for each in reversed(patches):
        each.stop()


class Tester:
    """What the mixins ask of a model: a small config, and inputs for it."""

    is_training = True
    batch_size, seq_length, num_choices = BATCH, LENGTH, 4
    hidden_size, num_attention_heads, num_hidden_layers = HIDDEN, HEADS, LAYERS
    config_class: type
    values: Mapping[str, object]

    def get_config(self):
        return self.config_class(**COMMON, **self.values)

    def prepare_config_and_inputs_for_common(self):
        tokens = torch.randint(3, VOCABULARY, (BATCH, LENGTH))
        return self.get_config(), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


class BertTester(Tester):
    config_class = hf_tanhmax.TanhMaxBertConfig
    values = MappingProxyType({"vocab_size": VOCABULARY, "max_position_embeddings": 128})


class LlamaTester(Tester):
    config_class = hf_tanhmax.TanhMaxLlamaConfig
    values = MappingProxyType(
        {**BertTester.values, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    )


class ViTTester(Tester):
    config_class = hf_tanhmax.TanhMaxViTConfig
    values = MappingProxyType({"image_size": 30, "patch_size": 6, "encoder_stride": 6})
    image_size, patch_size, seq_length = 30, 6, 26
    num_masks, mask_length, mask_ratio = 13, 25, 0.5

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": torch.randn(BATCH, 3, 30, 30)}


class Upstream(modeling.ModelTesterMixin):
    """The mixins, wired to one family."""

    tester: type[Tester]
    has_text_modality = True

    def setUp(self):
        self.model_tester = self.tester()
        self.config_tester = configuration.ConfigTester(
            self, config_class=self.tester.config_class, has_text_modality=self.has_text_modality, hidden_size=HIDDEN
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    if hasattr(modeling.ModelTesterMixin, "test_bc_cache_name_forward"):  # from 5.24 on

        def test_bc_cache_name_forward(self):
            """It looks for a warning, and all are ignored here."""
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                super().test_bc_cache_name_forward()


def heads_of(config):
    return tuple(dict.fromkeys(FAMILIES[config].values()))


class TestBert(Upstream, modeling.GenerationTesterMixin, unittest.TestCase):
    tester = BertTester
    all_model_classes = heads_of(hf_tanhmax.TanhMaxBertConfig)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """The mixin knows no head with two losses; upstream's test of BERT does the same."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class is hf_tanhmax.TanhMaxBertForPreTraining:
            inputs["labels"] = torch.zeros(BATCH, LENGTH, dtype=torch.long)
            inputs["next_sentence_label"] = torch.zeros(BATCH, dtype=torch.long)
        return inputs


class TestViT(Upstream, unittest.TestCase):
    tester = ViTTester
    all_model_classes = heads_of(hf_tanhmax.TanhMaxViTConfig)
    has_text_modality = False
    test_resize_embeddings = False  # there is no vocabulary

    @unittest.skip("the embeddings of ViT are a convolution, which the mixin does not expect; upstream's test of ViT overrides it")
    def test_model_get_set_embeddings(self):
        pass


class TestLlama(Upstream, training.TrainingTesterMixin, modeling.GenerationTesterMixin, unittest.TestCase):
    tester = LlamaTester
    all_model_classes = heads_of(hf_tanhmax.TanhMaxLlamaConfig)
    model_tester = None  # a property without a setter in the mixin

    def _get_trainable_model_class(self):
        """The mixin would take the first class, which has no loss."""
        return hf_tanhmax.TanhMaxLlamaForCausalLM
