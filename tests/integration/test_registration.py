"""The adapter that Transformers calls: every argument it passes is honoured, or refused by name."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from families import CACHE, NAIVE, assert_same, run, text, tiny_config, tiny_model
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, StaticCache
from transformers.masking_utils import sdpa_mask

from hf_tanhmax import TanhMaxLlamaModel, tanhmax, tanhmax_attention
from hf_tanhmax.integration.registration import (
    CARRIED,
    EAGER,
    FUSED,
    PAGED,
    REFUSED,
    SCORE_BIAS,
    _say_frozen,
    eager_forward,
    fused_forward,
    heads_of,
    paged_forward,
    register_attention,
)

BATCH, HEADS, GROUPS, QUERIES, KEYS, SIZE = 2, 6, 3, 5, 7, 11


@pytest.fixture
def tensors():
    return torch.randn(BATCH, HEADS, QUERIES, SIZE), torch.randn(BATCH, GROUPS, KEYS, SIZE), torch.randn(BATCH, GROUPS, KEYS, SIZE)


def module_with(**attributes):
    module = nn.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def definition(query, key, value, *, scale=SIZE**-0.5, additive=None, keep=None):
    """Output as Transformers wants it, `[batch, queries, heads, head_dim]`, and weights, in float64."""
    repeats = query.shape[1] // key.shape[1]
    query, key, value = query.double(), key.double().repeat_interleave(repeats, 1), value.double().repeat_interleave(repeats, 1)
    weights = tanhmax(query @ key.mT * scale, keep, additive_mask=additive)
    return (weights @ value).transpose(1, 2), weights


def assert_computes(found, wanted):
    torch.testing.assert_close(found[0].double(), wanted[0], atol=1e-5, rtol=1e-5)
    assert found[0].is_contiguous()
    if found[1] is not None:
        torch.testing.assert_close(found[1].double(), wanted[1], atol=1e-5, rtol=1e-5)


both = pytest.mark.parametrize("forward", [fused_forward, eager_forward])


# Names and registration


@pytest.mark.parametrize("name", [FUSED, EAGER, PAGED])
def test_attention_and_mask_are_registered_together(name):
    for _ in range(2):
        assert AttentionInterface()[name] is {FUSED: fused_forward, EAGER: eager_forward, PAGED: paged_forward}[name]
        assert AttentionMaskInterface()[name] is sdpa_mask
        register_attention()


@pytest.mark.parametrize("name", [FUSED, EAGER, PAGED])
@pytest.mark.parametrize("trap", ["flash", "sdpa", "flex_attention", "/", "paged|"])
def test_names_avoid_what_transformers_reads_from_names(name, trap):
    assert trap not in name


# Arguments that are honoured


@both
@pytest.mark.parametrize("scaling", [None, 1.0, 0.31])
def test_scaling(forward, tensors, scaling):
    found = forward(module_with(is_causal=False), *tensors, None, scaling=scaling, dropout=0.0)
    assert_computes(found, definition(*tensors, scale=SIZE**-0.5 if scaling is None else scaling))


def test_only_the_eager_name_returns_weights_unasked(tensors):
    module = module_with(is_causal=False)
    assert fused_forward(module, *tensors, None)[1] is None
    assert fused_forward(module, *tensors, None, output_attentions=False)[1] is None
    asked, always = fused_forward(module, *tensors, None, output_attentions=True)[1], eager_forward(module, *tensors, None)[1]
    torch.testing.assert_close(asked, always)
    assert (asked < 0).any()


@both
def test_dropout(forward, tensors):
    query, key, _ = tensors
    identity = torch.eye(KEYS).expand(BATCH, GROUPS, KEYS, KEYS).contiguous()
    module = module_with(is_causal=False)
    whole = forward(module, query, key, identity, None, dropout=0.0)[0]
    dropped = forward(module, query, key, identity, None, dropout=0.4)[0]
    zero = dropped == 0
    assert 0.25 < zero.double().mean() < 0.55
    torch.testing.assert_close(dropped[~zero], whole[~zero] / 0.6, atol=1e-5, rtol=1e-4)


@both
@pytest.mark.parametrize(
    ("argument", "attribute", "causal"),
    [(None, None, True), (None, True, True), (None, False, False), (True, False, True), (False, True, False), (False, None, False)],
)
def test_is_causal_is_the_argument_then_the_module_then_true(forward, tensors, argument, attribute, causal):
    module = module_with(**({} if attribute is None else {"is_causal": attribute}))
    keep = torch.ones(QUERIES, KEYS, dtype=torch.bool).tril() if causal else None
    assert_computes(forward(module, *tensors, None, is_causal=argument), definition(*tensors, keep=keep))


@both
def test_one_query_sees_every_key(forward, tensors):
    query, key, value = tensors[0][:, :, :1], *tensors[1:]
    assert_computes(forward(module_with(is_causal=True), query, key, value, None), definition(query, key, value))


@both
@pytest.mark.parametrize("rows", [(1, BATCH), (BATCH, 1)], ids=["one row of queries", "one row of keys"])
def test_one_row_for_the_whole_batch(forward, rows, tensors):
    """As matrix products repeat it; learned queries come so."""
    query, key, value = tensors[0][: rows[0]], tensors[1][: rows[1]], tensors[2][: rows[1]]
    found = forward(module_with(is_causal=False), query, key, value)
    assert_computes(found, definition(query, key, value))


@both
def test_a_mask_is_the_whole_truth(forward, tensors):
    keep = torch.rand(BATCH, 1, QUERIES, KEYS) > 0.5
    keep[0, 0, 1] = False
    found = forward(module_with(is_causal=True), *tensors, keep)
    assert_computes(found, definition(*tensors, keep=keep))
    assert not found[0][0, 1].any()


@both
def test_a_position_bias_multiplies_shares(forward, tensors):
    bias = torch.randn(1, HEADS, QUERIES, KEYS)
    found = forward(module_with(is_causal=False), *tensors, None, position_bias=bias, scaling=1.0)
    assert_computes(found, definition(*tensors, scale=1.0, additive=bias))


@both
@pytest.mark.parametrize("hidden", [torch.finfo(torch.float32).min, float("-inf"), -1e9, -1e4, -9984.0], ids=str)
@pytest.mark.parametrize("place", ["attention_mask", "position_bias"])
def test_an_additive_mask_hides_and_multiplies_shares(forward, tensors, hidden, place):
    """-9984 is -10000 in bfloat16. As a part of the score, any of these would give the hidden keys the largest weights of all."""
    keep, fading = torch.rand(BATCH, 1, QUERIES, KEYS) > 0.4, torch.randn(BATCH, 1, QUERIES, KEYS)
    keep[1, 0, 2] = False
    mask, other = torch.where(keep, fading, hidden), torch.randn(1, HEADS, QUERIES, KEYS)
    found = forward(module_with(), *tensors, **{"attention_mask": other.expand(2, -1, -1, -1), "position_bias": other, place: mask})
    assert_computes(found, definition(*tensors, keep=keep, additive=fading + other))


@both
def test_masks_may_be_longer_than_the_keys(forward, tensors):
    keep = torch.rand(BATCH, 1, QUERIES, KEYS + 4) > 0.4
    wanted = definition(*tensors, keep=keep[..., :KEYS])
    assert_computes(forward(module_with(), *tensors, keep), wanted)
    additive = torch.zeros(keep.shape).masked_fill(~keep, float("-inf"))
    assert_computes(forward(module_with(), *tensors, additive), wanted)


@both
def test_softcap(forward, tensors):
    scores = tensors[0] @ tensors[1].repeat_interleave(2, 1).mT * SIZE**-0.5
    weights = tanhmax((1.5 * torch.tanh(scores / 1.5)).double())
    wanted = (weights @ tensors[2].repeat_interleave(2, 1).double()).transpose(1, 2), weights
    assert_computes(forward(module_with(is_causal=False), *tensors, None, softcap=1.5), wanted)


@both
def test_packed_sequences_by_their_bounds(forward):
    query, key, value = (torch.randn(1, heads, 9, SIZE) for heads in (HEADS, GROUPS, GROUPS))
    bounds = torch.tensor([0, 2, 3, 9], dtype=torch.int32)
    sequence = torch.tensor([0, 0, 1, 2, 2, 2, 2, 2, 2])
    same = sequence[:, None] == sequence[None, :]
    lengths = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 6, "max_length_k": 6}
    causal = definition(query, key, value, keep=same.tril())
    assert_computes(forward(module_with(is_causal=True), query, key, value, None, **lengths), causal)
    assert_computes(forward(module_with(is_causal=False), query, key, value, None, **lengths), definition(query, key, value, keep=same))
    whole = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()
    assert_computes(forward(module_with(), query, key, value, whole, **lengths), causal)


@both
def test_bounds_that_cannot_be_honoured_are_not_ignored(forward, tensors):
    with pytest.raises(ValueError, match="cu_seqlens packs sequences of queries and keys alike into a batch of one"):
        forward(module_with(), *tensors, None, cu_seq_lens_q=torch.tensor([0, 2, 5]))


class PagedCache:
    """What `PagedAttentionCache` of Transformers 5.23 is to an attention function: it takes new keys and gives all."""

    def __init__(self, key, value):
        self.key, self.value, self.asked = key, value, None

    def update(self, key_states, value_states, layer_idx, kwargs):
        self.asked = (layer_idx, "cache" in kwargs)
        return torch.cat([self.key, key_states], 2), torch.cat([self.value, value_states], 2)


class OldPagedCache(PagedCache):
    """The same in Transformers 5.17."""

    def update(self, key_states, value_states, layer_idx, read_index, write_index):
        found = super().update(key_states, value_states, layer_idx, {})
        return tuple(each[0].transpose(0, 1) for each in found)


@pytest.mark.parametrize("forward", [fused_forward, eager_forward, paged_forward])
@pytest.mark.parametrize("kind", [PagedCache, OldPagedCache])
def test_paged_cache(forward, kind, tensors):
    query, key, value = (each[:1] for each in tensors)
    cache = kind(torch.randn(1, GROUPS, 2, SIZE), torch.randn(1, GROUPS, 2, SIZE))
    keep = torch.rand(1, 1, QUERIES, KEYS + 2) > 0.3
    mask = torch.zeros(keep.shape).masked_fill(~keep, torch.finfo(torch.float32).min)
    bounds = torch.tensor([0, 3, 5])
    found = forward(module_with(layer_idx=3), query, key, value, mask, cache=cache, cu_seq_lens_q=bounds, read_index=[], write_index=[])
    wanted = definition(query, torch.cat([cache.key, key], 2), torch.cat([cache.value, value], 2), keep=keep)
    assert_computes(found, wanted)
    assert cache.asked[0] == 3


def test_paged_names_need_a_paged_cache(tensors):
    with pytest.raises(ValueError, match=r'a "paged\|" attention works in continuous batching only'):
        paged_forward(module_with(), *tensors, None)


def test_a_paged_cache_that_the_module_has_updated(tensors):
    """As Transformers 5.24 does where nothing puts it off: keys are gathered, and the mask says whose they are."""
    query, key, value = (each[:1] for each in tensors)
    keep = torch.rand(1, 1, QUERIES, KEYS) > 0.3
    bounds = torch.tensor([0, 3, 5])
    for forward in (fused_forward, eager_forward, paged_forward):
        found = forward(module_with(), query, key, value, keep, cu_seq_lens_q=bounds, read_index=[], write_index=[bounds])
        assert_computes(found, definition(query, key, value, keep=keep))


def test_paged_cache_needs_a_layer_index(tensors):
    with pytest.raises(NotImplementedError, match="a paged cache needs the layer's index, but Module has no layer_idx"):
        fused_forward(module_with(), *tensors, None, cache=PagedCache(None, None))


@both
@pytest.mark.parametrize("polarity", [0.0, 0.25, 1.0])
def test_polarity_comes_from_the_config(forward, tensors, polarity):
    module = module_with(is_causal=False, config=SimpleNamespace(tanhmax_polarity=polarity, tanhmax_heads=None))
    wanted = tanhmax_attention(*tensors, polarity=polarity, implementation="reference").transpose(1, 2)
    torch.testing.assert_close(forward(module, *tensors, None)[0], wanted, atol=1e-5, rtol=1e-5)


@both
def test_heads_not_chosen_are_softmax(forward, tensors):
    module = module_with(is_causal=False, config=SimpleNamespace(tanhmax_polarity=1.0, tanhmax_heads=[0, 4], num_attention_heads=HEADS))
    found = forward(module, *tensors, None)[0]
    wanted = definition(*tensors)[0].float()
    softmax = nn.functional.scaled_dot_product_attention(*tensors, enable_gqa=True).transpose(1, 2)
    for head in range(HEADS):
        torch.testing.assert_close(found[:, :, head], (wanted if head in (0, 4) else softmax)[:, :, head], atol=1e-5, rtol=1e-5)


# Tensor parallelism, under which a rank sees some of the heads


@both
def test_chosen_heads_are_refused_where_a_rank_cannot_tell_which_it_sees(forward, tensors):
    module = module_with(config=SimpleNamespace(tanhmax_polarity=1.0, tanhmax_heads=[0], num_attention_heads=2 * HEADS))
    with pytest.raises(NotImplementedError, match=f"counts the {2 * HEADS} heads of the whole Module, .* this rank {HEADS} of them"):
        forward(module, *tensors, None)


def test_heads_that_only_the_projection_tells():
    """The config of RF-DETR calls them `decoder_self_attention_heads`, and its attention module says nothing of them."""
    module = nn.Module()
    module.config, module.head_dim, module.q_proj = SimpleNamespace(), 6, nn.Linear(24, 18)
    assert heads_of(module) == 3


def test_heads_that_nothing_tells():
    module = nn.Module()
    module.config = SimpleNamespace()
    with pytest.raises(ValueError, match=r"cannot tell how many heads Module has, .*leave heads None, and polarity a number"):
        heads_of(module)


@both
@pytest.mark.parametrize("biases", [1, 2 * HEADS])
def test_score_biases_must_be_those_of_the_heads(forward, biases, tensors):
    module = module_with(config=SimpleNamespace(tanhmax_polarity="learned"), **{SCORE_BIAS: nn.Parameter(torch.zeros(biases))})
    with pytest.raises(ValueError, match=f'has {biases} score biases but sees {HEADS} heads: .* ".tanhmax_score_bias": "colwise"'):
        forward(module, *tensors, None)


# Score biases that do not learn


def test_frozen_score_biases_are_said_once_where_the_rest_is_trained(tensors, caplog):
    _say_frozen.cache_clear()
    module = module_with(config=SimpleNamespace(tanhmax_polarity="learned"), **{SCORE_BIAS: nn.Parameter(torch.zeros(HEADS))})
    query, key, value = tensors
    trained = query.clone().requires_grad_()
    fused_forward(module, trained, key, value, None)
    getattr(module, SCORE_BIAS).requires_grad_(False)
    fused_forward(module, query, key, value, None)
    fused_forward(module.eval(), trained, key, value, None)
    assert not caplog.records
    for _ in range(2):
        fused_forward(module.train(), trained, key, value, None)
    assert [record.message[:55] for record in caplog.records] == ["the score biases of a learned polarity are frozen, as P"]


# Arguments that are refused


@both
@pytest.mark.parametrize(("name", "what"), sorted(REFUSED.items()))
def test_refused_by_name(forward, tensors, name, what):
    with pytest.raises(NotImplementedError, match=f"TanhMax attention has no {what}: Module passed '{name}'"):
        forward(module_with(), *tensors, None, **{name: torch.zeros(HEADS)})
    forward(module_with(), *tensors, None, **{name: None})


@both
def test_unknown_tensors_are_refused(forward, tensors):
    with pytest.raises(NotImplementedError, match="Module passed the tensor 'relative_bias', which TanhMax attention does not know"):
        forward(module_with(), *tensors, None, relative_bias=torch.zeros(HEADS))
    forward(
        module_with(),
        *tensors,
        None,
        sliding_window=3,
        deterministic=True,
        **{name: torch.zeros(1) for name in CARRIED - {"cu_seq_lens_q"}},
    )


@both
def test_sequence_parallelism_is_refused(forward, tensors, monkeypatch):
    refused = pytest.raises(NotImplementedError, match=r"sequence parallelism \(Ulysses\) replaces softmax attention.* set sp_size to 1")
    monkeypatch.setenv("PARALLELISM_CONFIG_SP_SIZE", "2")
    with refused:
        forward(module_with(), *tensors, None)
    monkeypatch.setenv("PARALLELISM_CONFIG_SP_SIZE", "1")
    forward(module_with(), *tensors, None)
    state = pytest.importorskip("accelerate.state", reason="accelerate is not installed")
    monkeypatch.setattr(state.AcceleratorState, "_shared_state", {"parallelism_config": SimpleNamespace(sp_size=2)})
    with refused:
        forward(module_with(), *tensors, None)


@both
def test_other_masks_are_refused(forward, tensors):
    with pytest.raises(TypeError, match=r"takes a 4-dimensional boolean or additive mask, but got a tensor of shape \(2, 7\)"):
        forward(module_with(), *tensors, torch.ones(BATCH, KEYS, dtype=torch.bool))
    with pytest.raises(TypeError, match="takes a 4-dimensional boolean or additive mask, but got SimpleNamespace"):
        forward(module_with(), *tensors, SimpleNamespace())
    with pytest.raises(TypeError, match=r"must be boolean or floating point, but is torch.int64; use mask.bool\(\)"):
        forward(module_with(), *tensors, torch.ones(BATCH, 1, QUERIES, KEYS, dtype=torch.int64))


# Through models


@pytest.fixture
def llama():
    return tiny_model(transformers.LlamaForCausalLM, attn_implementation=FUSED)


def test_packed_positions_do_not_leak(llama):
    tokens = text(1, 11)
    positions = torch.cat([torch.arange(4), torch.arange(7)])[None]
    packed = run(llama, {"input_ids": tokens, "position_ids": positions, "use_cache": False}).logits
    alone = torch.cat([run(llama, {"input_ids": part}).logits for part in (tokens[:, :4], tokens[:, 4:])], 1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("use_cache", [False, True])
def test_packed_bounds_do_not_leak(llama, use_cache):
    """With a cache Transformers makes no mask for packed positions; the bounds still hold."""
    tokens, bounds = text(1, 11), torch.tensor([0, 4, 11], dtype=torch.int32)
    positions = torch.cat([torch.arange(4), torch.arange(7)])[None]
    lengths = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 7, "max_length_k": 7}
    packed = run(llama, {"input_ids": tokens, "position_ids": positions, "use_cache": use_cache, **lengths}).logits
    alone = torch.cat([run(llama, {"input_ids": part}).logits for part in (tokens[:, :4], tokens[:, 4:])], 1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", [FUSED, EAGER])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_caches_in_chunks(implementation, cache):
    model = tiny_model(transformers.LlamaForCausalLM, attn_implementation=implementation)
    tokens = text(2, 11)
    past = DynamicCache(config=model.config) if cache == "dynamic" else StaticCache(config=model.config, max_cache_len=17)
    parts = [run(model, {"input_ids": part, CACHE: past}).logits for part in tokens.split([5, 3, 1, 1, 1], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), run(model, {"input_ids": tokens}).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["Mistral", "Gemma2"])
def test_sliding_windows_come_as_masks(name):
    """The eleventh token must not see what leaves every window; 2 layers of window 3 reach 4 tokens back."""
    config = tiny_config("llama", upstream=True).to_dict()
    changes = {"sliding_window": 3, "head_dim": 6, "num_hidden_layers": 2, "attn_implementation": FUSED}
    config = getattr(transformers, f"{name}Config")(**{**config, **changes, "layer_types": ["sliding_attention"] * 2})
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(config)
    tokens = text(1, 11)
    changed = tokens.clone()
    changed[:, :6] = 5
    one, other = (run(model, {"input_ids": each}).last_hidden_state for each in (tokens, changed))
    torch.testing.assert_close(one[:, -1], other[:, -1], atol=1e-6, rtol=1e-5)
    assert (one[:, 9] - other[:, 9]).abs().max() > 1e-4


def test_masks_given_by_the_user(llama):
    tokens = text()
    keep = torch.rand(2, 1, 11, 11) > 0.3
    additive = torch.zeros(keep.shape).masked_fill(~keep, torch.finfo(torch.float32).min)
    naive = tiny_model(transformers.LlamaForCausalLM, attn_implementation=NAIVE)
    wanted = run(naive, {"input_ids": tokens, "attention_mask": additive})
    for mask in (keep, additive):
        assert_same([run(llama, {"input_ids": tokens, "attention_mask": mask}).logits], [wanted.logits])


def test_global_registration_is_the_model_class():
    model = tiny_model(TanhMaxLlamaModel)
    native = tiny_model(transformers.LlamaModel, attn_implementation=FUSED)
    native.load_state_dict(model.state_dict())
    assert_same(run(model, {"input_ids": text()}), run(native, {"input_ids": text()}), atol=0, rtol=0)
