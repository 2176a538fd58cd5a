"""Transformers' own test mixins, wired to an architecture by a few lines: its model type, values for a small config, and inputs.

With HF_TANHMAX_STOCK=1 the same lines run with the classes of Transformers itself: what fails there too is not ours.
"""

import os
import warnings
from contextlib import ExitStack
from types import MappingProxyType
from unittest.mock import patch

import torch
import transformers
from sdist import mixins

from hf_tanhmax.models import family
from hf_tanhmax.models.architectures import config_of
from hf_tanhmax.models.family import HEADS

modeling, configuration, training = mixins()

STOCK = os.environ.get("HF_TANHMAX_STOCK") == "1"
BATCH, LENGTH, VOCABULARY, HIDDEN, ATTENTION_HEADS, LAYERS = 3, 7, 99, 32, 4, 2
COMMON = {"hidden_size": HIDDEN, "num_attention_heads": ATTENTION_HEADS, "num_hidden_layers": LAYERS, "intermediate_size": 37}
PATCHES = {"image_size": 30, "patch_size": 6, "seq_length": 26, "num_masks": 13, "mask_length": 25, "mask_ratio": 0.5}
CONVOLUTION = {
    "test_model_get_set_embeddings": "the embeddings are a convolution, which the mixin does not expect; upstream's tests of images skip it"
}
WORDS = {"vocab_size": VOCABULARY, "max_position_embeddings": 128}


class Tester:
    """What the mixins ask of a model: a small config, inputs for it, and their sizes."""

    is_training = True
    batch_size, seq_length, num_choices = BATCH, LENGTH, 4
    hidden_size, num_attention_heads, num_hidden_layers = HIDDEN, ATTENTION_HEADS, LAYERS

    def __init__(self, case: "Upstream") -> None:
        self.case = case
        vars(self).update(case.sizes)

    def get_config(self):
        return self.case.config_class(**self.case.values)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), self.case.inputs()


class Upstream(modeling.ModelTesterMixin):
    """The mixins on one architecture.

    A subclass says in its keywords of which model type it is, and by which Auto classes its heads are found (by default all that there
    are); `sizes`, what mixins read of a tester besides; `skips`, the beginnings of names of tests that it leaves out, with the reason; and
    values for its config. In the stock run nothing is left out, so that run shows which of them fail there too.
    """

    values, sizes, skips = MappingProxyType({}), MappingProxyType({}), MappingProxyType({})
    has_text_modality = True
    model_tester = None  # a property without a setter in one of the mixins

    def __init_subclass__(cls, of=None, heads=(), sizes=MappingProxyType({}), skips=MappingProxyType({}), **values):
        super().__init_subclass__()
        cls.values, cls.sizes, cls.skips = {**cls.values, **values}, {**cls.sizes, **sizes}, {**cls.skips, **skips}
        if of is not None:
            made = config_of(of)
            cls.config_class = made.__mro__[2] if STOCK else made
            cls.heads = {auto: head.__mro__[1] if STOCK else head for auto, head in HEADS[made].items() if auto in (heads or HEADS[made])}
            cls.all_model_classes = tuple(dict.fromkeys(cls.heads.values()))

    @classmethod
    def setUpClass(cls):
        """The mixins choose labels by the class name of a head, which they look up in these tables."""
        super().setUpClass()
        stack = ExitStack()
        cls.addClassCleanup(stack.close)
        for auto, head in cls.heads.items():
            names = getattr(transformers, auto)._model_mapping._model_mapping
            stack.enter_context(patch.dict(names, {cls.config_class.model_type: head.__name__}))

    def setUp(self):
        for start, reason in () if STOCK else self.skips.items():
            if self._testMethodName.startswith(start):
                self.skipTest(reason)
        self.model_tester = Tester(self)
        self.config_tester = configuration.ConfigTester(
            self, config_class=self.config_class, has_text_modality=self.has_text_modality, **self.values
        )

    def inputs(self):
        tokens = torch.randint(3, VOCABULARY, (BATCH, LENGTH))
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_weights_reload_no_missing_tied_weights(self):
        """It loads a file without any of the weights, and reads what is reported: that is refused here, so the refusal is set aside."""
        with patch.object(family, "_refuse_weights_of_others"):
            super().test_model_weights_reload_no_missing_tied_weights()

    if hasattr(modeling.ModelTesterMixin, "test_bc_cache_name_forward"):  # from 5.24 on

        def test_bc_cache_name_forward(self):
            """It looks for a warning, and all are ignored here."""
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                super().test_bc_cache_name_forward()


class Generates(modeling.GenerationTesterMixin):
    """Of an architecture with a head that generates, as one of the mixins wants to know."""


class Encoder(Upstream, **COMMON, **WORDS):
    """An encoder of text."""


class Decoder(Encoder, Generates, training.TrainingTesterMixin, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2):
    """A causal language model."""

    def _get_trainable_model_class(self):
        """The mixin would take the first class, which has no loss."""
        return self.heads["AutoModelForCausalLM"]


class Images(Upstream, **COMMON, image_size=30, patch_size=6, sizes=PATCHES, skips=CONVOLUTION):
    """An encoder of images: of 5 by 5 patches, and one more position."""

    has_text_modality = False
    test_resize_embeddings = False  # there is no vocabulary

    def inputs(self):
        return {"pixel_values": torch.randn(BATCH, 3, 30, 30)}
