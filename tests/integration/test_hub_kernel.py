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


SIDES = {"vocab_size": 50, "hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 12}
NEVER_ASK = {
    "DebertaV2Model": "DisentangledSelfAttention",
    "MPNetModel": "MPNetSelfAttention",
}


@pytest.fixture
def loading(monkeypatch):
    """Transformers asks for a kernel while a model is built, and then the kernel is imported; each is for the first time here."""
    monkeypatch.setattr(transformers.modeling_utils, "lazy_import_flash_attention", lambda *_, **__: hub_kernel.await_call())


def built(name):
    config = getattr(transformers, name).config_class(**SIDES)
    config._attn_implementation = NAME
    return getattr(transformers, name)(config).eval()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # DeBERTa of Transformers 5.17
@pytest.mark.parametrize("name", NEVER_ASK)
@torch.no_grad()
def test_a_model_that_never_calls_it_is_refused_where_it_loaded_it(name, loading):
    model = built(name)
    message = f'{name} ignores attn_implementation="{NAME}": its {NEVER_ASK[name]} compute softmax themselves, without asking'
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            model(**INPUTS)
    model.config._attn_implementation = "eager"
    model(**INPUTS)
    assert model not in hub_kernel.AWAITED


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@torch.no_grad()
def test_a_model_that_calls_it_is_awaited_once(compiled, loading):
    model = built("BertModel")
    assert hub_kernel.AWAITED[model].id in model._forward_hooks
    torch.compile(model, fullgraph=True, backend="eager")(**INPUTS) if compiled else model(**INPUTS)
    assert model not in hub_kernel.AWAITED
    assert not model._forward_hooks


def test_nobody_is_awaited_where_no_model_loads_it():
    before = len(hub_kernel.AWAITED)
    hub_kernel.await_call()
    assert len(hub_kernel.AWAITED) == before


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
