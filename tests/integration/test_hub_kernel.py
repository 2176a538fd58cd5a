"""What a kernel asks of the stock model that calls it: settings that it can honour, and no part that would stay softmax."""

import pytest
import torch
import transformers
from families import tiny_config

import hf_tanhmax
from hf_tanhmax.integration import hub_kernel

NAME = "me/examined"
INPUTS = {"input_ids": torch.arange(3, 25).view(2, 11)}
pytestmark = pytest.mark.filterwarnings("ignore:the attention of this model is TanhMax because of")


@pytest.fixture(autouse=True)
def registered():
    transformers.AttentionInterface.register(NAME, hub_kernel.flash_attn_forward)
    transformers.AttentionMaskInterface.register(NAME, transformers.masking_utils.sdpa_mask)
    yield
    for each in (transformers.AttentionInterface, transformers.AttentionMaskInterface):
        each._global_mapping.pop(NAME)


def stock(**settings):
    model = transformers.BertModel(tiny_config("bert", upstream=True)).eval()
    model.config._attn_implementation = NAME
    for name, value in settings.items():
        setattr(model.config, name, value)
    return model


def test_transformers_is_told_that_it_is_called_as_its_own():
    assert hub_kernel.supports_flash_attn()


@pytest.mark.parametrize("settings", [{}, {"polarity": 0.3, "shift": "balanced"}, {"polarity": 0.5, "heads": [1]}], ids=str)
@torch.no_grad()
def test_settings_are_those_of_the_config(settings):
    model = stock(**{f"tanhmax_{name}": value for name, value in settings.items()})
    found = model(**INPUTS).last_hidden_state
    assert model.config.tanhmax_kernel == NAME
    model.config._attn_implementation = "sdpa"
    with hf_tanhmax.tanhmax_on(model, **settings):
        assert torch.equal(found, model(**INPUTS).last_hidden_state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tanhmax_layers": [0]}, "has tanhmax_layers, which a kernel cannot honour: it takes tanhmax_polarity, tanhmax_shift, "),
        ({"tanhmax_polarity": "learned"}, "tanhmax_polarity is 'learned', but Bert.*Attention has no parameters for it"),
    ],
)
def test_settings_that_it_cannot_honour(settings, message):
    with pytest.raises(ValueError, match=message):
        stock(**settings)(**INPUTS)


def test_a_part_that_would_stay_softmax():
    model = stock()
    model.pooler = Pooler(model.config.hidden_size)
    with pytest.raises(ValueError, match=r"part of BertModel would stay softmax: Pooler \(pooler\) .*softmax_parts = \['Pooler'\]"):
        model(**INPUTS)
    model.config.tanhmax_softmax_parts = ["Pooler"]
    assert model(**INPUTS).pooler_output.shape == (2, model.config.hidden_size)


class Pooler(torch.nn.Module):
    """Attention of its own, over all tokens."""

    def __init__(self, size):
        super().__init__()
        self.attention = torch.nn.Linear(size, 1)

    def forward(self, hidden):
        weights = torch.nn.functional.softmax(self.attention(hidden), dim=1)
        return (weights * hidden).sum(1)
