"""Caches by any release's rules: their name, when a paged cache is updated, what is written and read, and when it must be gathered."""

import copy
import pickle

import pytest
import torch
import transformers
from families import CACHE, run, text, tiny_model
from torch import nn
from transformers import DynamicCache, GenerationConfig, StaticCache

from hf_tanhmax import TanhMaxLlamaForCausalLM, restore, tanhmax_on, use_tanhmax
from hf_tanhmax.attention import api as attention
from hf_tanhmax.attention.kernels import support
from hf_tanhmax.integration import registration, serving
from hf_tanhmax.integration.patching import attention_modules

NEW = 3


def with_triton(test):
    """A test that decodes by Triton, in small tiles."""
    skipped = pytest.mark.skipif(support.triton_missing() is not None, reason="needs triton")
    return skipped(pytest.mark.usefixtures("small_tiles")(test))


class Paged:
    """A paged cache that writes down what it is asked."""

    def __init__(self):
        self.asked, self.blocks = [], "its blocks"

    def update(self, key_states, value_states, layer_idx, kwargs):
        self.asked.append((layer_idx, kwargs["read_index"]))
        return torch.cat([key_states, key_states], 2), torch.cat([value_states, value_states], 2)


class OldPaged(Paged):
    """The same of Transformers 5.17, which gives `[keys, heads, dim]`."""

    def update(self, key_states, value_states, layer_idx, read_index, write_index):
        found = super().update(key_states, value_states, layer_idx, {"read_index": read_index})
        return tuple(each[0].transpose(0, 1) for each in found)


class UpdatesItself(nn.Module):
    """An attention module as in Transformers 5.24."""

    def forward(self, states, cache=None, **kwargs):
        if cache is not None:
            states, _ = cache.update(states, states, 3, kwargs=kwargs)
        return states, kwargs


class HandsOn(nn.Module):
    """An attention module as before it."""

    def forward(self, states, past_key_values=None, **kwargs):
        return states, kwargs


KWARGS = {"read_index": [torch.arange(4)], "write_index": [torch.arange(2)]}
STATES = torch.randn(1, 2, 2, 3)


def test_the_name_of_a_cache():
    assert serving.cache_argument(UpdatesItself.forward) == "cache"
    assert serving.cache_argument(HandsOn.forward) == "past_key_values"
    assert serving.cache_argument(nn.Linear.forward) is None


def test_the_name_of_the_installed_release():
    model = tiny_model(TanhMaxLlamaForCausalLM)
    output = run(model, {"input_ids": text(1, 3)}, use_cache=True)
    assert run(model, {"input_ids": text(1, 3)}, **{CACHE: output[CACHE]})[CACHE].get_seq_length() == 6


@pytest.mark.parametrize("kind", [Paged, OldPaged])
def test_updated_gathers_and_written_does_not(kind):
    cache = kind()
    key, value = serving.updated(cache, STATES, STATES + 1, 3, dict(KWARGS))
    torch.testing.assert_close(key, torch.cat([STATES, STATES], 2), atol=0, rtol=0)
    torch.testing.assert_close(value, torch.cat([STATES, STATES], 2) + 1, atol=0, rtol=0)
    serving.written(cache, STATES, STATES, 3, KWARGS)
    assert [layer for layer, _ in cache.asked] == [3, 3]
    assert [len(index[0]) for _, index in cache.asked] == [4, 0]
    assert len(KWARGS["read_index"][0]) == 4


def test_an_update_that_is_put_off_hands_the_cache_on():
    module, cache = UpdatesItself(), Paged()
    gathered, kwargs = module(STATES, cache=cache, **KWARGS)
    assert gathered.shape[2] == 4
    assert "cache" not in kwargs
    serving.put_off_updates(module)
    serving.put_off_updates(module)
    cache.asked.clear()
    states, kwargs = module(STATES, cache=cache, **KWARGS)
    assert states is STATES
    assert kwargs["cache"] is cache
    assert not cache.asked
    serving.update_at_once(module)
    serving.update_at_once(module)
    assert module(STATES, cache=cache, **KWARGS)[0].shape[2] == 4
    assert vars(module) == vars(UpdatesItself())


def test_other_caches_are_updated_at_once():
    """A cache of `generate` comes without the indices of a paged one."""
    module, cache = UpdatesItself(), Paged()
    serving.put_off_updates(module)
    assert module(STATES, cache=cache, read_index=[])[0].shape[2] == 4
    assert "cache" not in module(STATES, read_index=[], write_index=[])[1]


def test_nothing_is_put_off_where_the_attention_function_gets_the_cache_anyway():
    module = HandsOn()
    serving.put_off_updates(module)
    assert not module._forward_pre_hooks


def test_the_rest_of_a_cache_is_seen_through():
    cache = serving.PutOffUpdate(Paged())
    assert cache.blocks == "its blocks"
    with pytest.raises(AttributeError, match="'Paged' object has no attribute 'none'"):
        _ = cache.none


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_put_off_and_undo_by_themselves(copied):
    module = UpdatesItself()
    serving.put_off_updates(module)
    other, cache = copied(module), Paged()
    serving.update_at_once(module)
    assert other(STATES, cache=cache, **KWARGS)[1]["cache"] is cache
    serving.update_at_once(other)
    assert other(STATES, cache=cache, **KWARGS)[0].shape[2] == 4
    assert not other._forward_pre_hooks


def test_continuous_batching_is_told_by_what_comes_with_it():
    assert serving.in_continuous_batching({"cache": Paged()})
    assert serving.in_continuous_batching({"write_index": []})
    assert not serving.in_continuous_batching({"cache": None, "cu_seq_lens_q": torch.zeros(2)})


def hooked(model):
    return [bool(module._forward_pre_hooks) for module in attention_modules(model)]


def test_a_patched_model_keeps_no_hook_once_it_is_restored():
    model = tiny_model(transformers.LlamaForCausalLM)
    needs = serving.cache_argument(type(attention_modules(model)[0]).forward) == "cache"
    use_tanhmax(model)
    assert hooked(model) == [needs] * 3
    with tanhmax_on(model, polarity=0.5):
        assert hooked(model) == [needs] * 3
    assert hooked(model) == [needs] * 3
    restore(model)
    assert hooked(model) == [False] * 3
    with tanhmax_on(model, layers=[1]):
        assert hooked(model) == [False, needs, False]
    assert hooked(model) == [False] * 3


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


@pytest.mark.slow
@with_triton
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


@pytest.mark.slow
@with_triton
def test_a_balanced_shift_is_read_where_it_lies_and_writes_what_generate_does(gathered, monkeypatch):
    balanced = tiny_model(TanhMaxLlamaForCausalLM, eos_token_id=None, tanhmax_shift="balanced", tanhmax_polarity=0.4)
    prompts = [text(1, 6), text(1, 3)]
    options = {"max_new_tokens": NEW, "do_sample": False}
    wanted = [balanced.generate(each, attention_mask=torch.ones_like(each), **options)[0, each.shape[1] :].tolist() for each in prompts]
    assert written(balanced, prompts) == wanted
    assert all(gathered)
    gathered.clear()
    monkeypatch.setitem(attention.AUTOMATIC, "cpu", ("triton",))
    assert written(balanced, prompts) == wanted
    assert gathered.count(False) >= (NEW - 1) * balanced.config.num_hidden_layers


@pytest.mark.slow
@with_triton
def test_transformers_makes_no_block_table_for_us(model, monkeypatch):
    """If it did, its own table of larger blocks would be the one to read."""
    tables, whole = [], registration._forward
    monkeypatch.setattr(registration, "_forward", lambda *call: (tables.append(call[-1].get("block_table")), whole(*call))[1])
    written(model, [text(1, 3)])
    assert tables
    assert set(tables) == {None}


@with_triton
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
