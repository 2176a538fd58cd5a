"""Continuous batching reads its paged cache where it lies: what is written, what is read, and when it must be gathered."""

import pytest
import torch
import transformers
from families import CACHE, text, tiny_model
from transformers import DynamicCache, GenerationConfig, StaticCache

from hf_tanhmax import TanhMaxLlamaForCausalLM, registration
from hf_tanhmax.attention import api as attention
from hf_tanhmax.attention.kernels import support

NEW = 3

pytestmark = [
    pytest.mark.usefixtures("small_tiles"),
    pytest.mark.skipif(support.triton_missing() is not None, reason="needs triton"),
]


@pytest.fixture(scope="module")
def model():
    return tiny_model(TanhMaxLlamaForCausalLM, attn_implementation="sdpa", eos_token_id=None)


@pytest.fixture
def gathered(monkeypatch):
    """For each call of the attention function, whether keys were gathered."""
    found, decoded, updated = [], registration._decoded, registration.updated
    monkeypatch.setattr(registration, "_decoded", lambda *call: (found.append(False), decoded(*call))[1])
    monkeypatch.setattr(registration, "updated", lambda *call: (found.append(True), updated(*call))[1])
    return found


def written(model, prompts):
    found = model.generate_batch(
        [prompt[0].tolist() for prompt in prompts],
        generation_config=GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=0),
        continuous_batching_config=transformers.ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=16),
    )
    return [each.generated_tokens for each in found.values()]


def test_requests_with_one_query_each_are_read_where_they_lie(model, gathered, monkeypatch):
    """The cache of this version of Transformers is found, and the text is that of the path that gathers."""
    prompts = [text(1, 6), text(1, 3)]
    wanted = written(model, prompts)
    assert all(gathered)
    gathered.clear()
    monkeypatch.setitem(attention.AUTOMATIC, "cpu", ("triton",))
    assert written(model, prompts) == wanted
    assert gathered[0]  # the prompts
    assert gathered.count(False) >= (NEW - 1) * model.config.num_hidden_layers


def test_transformers_makes_no_block_table_for_us(model, monkeypatch):
    """If it did, its own table of larger blocks would be the one to read."""
    tables, whole = [], registration._forward
    monkeypatch.setattr(registration, "_forward", lambda *call: (tables.append(call[-1].get("block_table")), whole(*call))[1])
    written(model, [text(1, 3)])
    assert tables
    assert set(tables) == {None}


@pytest.mark.parametrize("kind", [StaticCache, DynamicCache])
def test_generate_hands_over_the_cache_itself(model, kind, monkeypatch):
    """Neither repeated for the heads of a group, nor cut to what is filled, nor copied."""
    seen, whole = [], attention.decode_attention
    monkeypatch.setattr(attention, "decode_attention", lambda *call: (seen.append(call[1]), whole(*call))[1])
    monkeypatch.setitem(attention.AUTOMATIC, "cpu", ("triton",))
    cache = StaticCache(config=model.config, max_cache_len=24) if kind is StaticCache else DynamicCache(config=model.config)
    tokens = text(1, 5)
    with torch.no_grad():
        model(tokens, **{CACHE: cache}, use_cache=True)
        seen.clear()
        model(tokens[:, :1], **{CACHE: cache}, use_cache=True)
    assert [key.data_ptr() for key in seen] == [layer.keys.data_ptr() for layer in cache.layers]
    assert all(key.shape == layer.keys.shape for key, layer in zip(seen, cache.layers, strict=True))
