"""Generating text: caches, padding, beams, assistants and continuous batches do not change what a TanhMax model writes."""

import pytest
import torch
import transformers
from families import CACHE, naive_twin, right_padding, run, softmax_twin, text, tiny_model
from transformers import DynamicCache, GenerationConfig

from hf_tanhmax import TanhMaxBertLMHeadModel, TanhMaxLlamaForCausalLM

NEW = 7
CHANGES = {
    TanhMaxBertLMHeadModel: {"is_decoder": True, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None},
    TanhMaxLlamaForCausalLM: {"eos_token_id": None},
}
every_decoder = pytest.mark.parametrize("cls", CHANGES, ids=lambda cls: cls.__name__)
every_implementation = pytest.mark.parametrize("implementation", ["sdpa", "eager"])


def decoder(cls, implementation="sdpa", **changes):
    return tiny_model(cls, attn_implementation=implementation, **CHANGES[cls], **changes)


def written(model, tokens, **changes):
    """The tokens that a model appends, greedily unless said otherwise."""
    options = {"max_new_tokens": NEW, "do_sample": False, **changes}
    mask = options.pop("attention_mask", torch.ones_like(tokens))
    return model.generate(tokens, attention_mask=mask, **options)[:, tokens.shape[1] :]


def by_hand(model, tokens):
    """Greedy decoding by the definition: the whole text again for every token, no cache."""
    start = tokens.shape[1]
    for _ in range(NEW):
        logits = run(model, {"input_ids": tokens}, use_cache=False).logits
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
    return tokens[:, start:]


@every_decoder
@every_implementation
def test_every_cache_writes_the_same(cls, implementation):
    model, tokens = decoder(cls, implementation), text()
    wanted = by_hand(naive_twin(model, **CHANGES[cls]), tokens)
    assert torch.equal(by_hand(model, tokens), wanted)
    assert torch.equal(written(model, tokens, use_cache=False), wanted)
    assert torch.equal(written(model, tokens), wanted)
    assert torch.equal(written(model, tokens, **{CACHE: DynamicCache(config=model.config)}), wanted)
    if cls is TanhMaxLlamaForCausalLM:
        assert torch.equal(written(model, tokens, cache_implementation="static", disable_compile=True), wanted)
    assert not torch.equal(written(softmax_twin(model, **CHANGES[cls]), tokens), wanted)


@every_implementation
@pytest.mark.parametrize("polarity", [0.5, "learned"])
def test_other_polarities(implementation, polarity):
    model, tokens = decoder(TanhMaxLlamaForCausalLM, implementation, tanhmax_polarity=polarity, tanhmax_score_bias=0.3), text()
    wanted = by_hand(model, tokens)
    assert torch.equal(written(model, tokens), wanted)
    assert torch.equal(written(model, tokens, cache_implementation="static", disable_compile=True), wanted)


@every_implementation
def test_a_balanced_shift(implementation):
    """Caches and left padding, by both implementations; the definition computes the whole text again for every token."""
    model, tokens = decoder(TanhMaxLlamaForCausalLM, implementation, tanhmax_polarity=0.5, tanhmax_shift="balanced"), text()
    wanted = by_hand(naive_twin(model, balanced=0.5, **CHANGES[TanhMaxLlamaForCausalLM]), tokens)
    assert torch.equal(written(model, tokens), wanted)
    assert torch.equal(written(model, tokens, cache_implementation="static", disable_compile=True), wanted)
    padded = torch.cat([torch.zeros(2, 4, dtype=torch.int64), tokens], 1)
    mask = (torch.arange(padded.shape[1]) >= 4).expand(2, -1).long()
    assert torch.equal(written(model, padded, attention_mask=mask), wanted)


@every_implementation
@pytest.mark.parametrize("cache", [None, "static"])
def test_left_padding_does_not_matter(implementation, cache):
    """The rows of padding see no key at all; a softmax would give them something, TanhMax gives 0."""
    model, tokens = decoder(TanhMaxLlamaForCausalLM, implementation), text(1, 5)
    options = {} if cache is None else {"cache_implementation": cache, "disable_compile": True}
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.int64), tokens], 1)
    mask = (torch.arange(9) >= 4)[None].long()
    assert torch.equal(written(model, padded, attention_mask=mask, **options), written(model, tokens, **options))
    logits = run(model, {"input_ids": padded, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp_min(0)}).logits
    torch.testing.assert_close(logits[:, 4:], run(model, {"input_ids": tokens}).logits, atol=1e-5, rtol=1e-4)
    assert torch.isfinite(logits).all()


def test_a_batch_writes_what_its_rows_write():
    model = decoder(TanhMaxLlamaForCausalLM)
    rows = [text(1, 11), text(1, 6)]
    batch = torch.cat([rows[0], torch.cat([torch.zeros(1, 5, dtype=torch.int64), rows[1]], 1)])
    mask = right_padding().flip(-1)
    mask[1] = (torch.arange(11) >= 5).long()
    mask[0] = 1
    assert torch.equal(written(model, batch, attention_mask=mask), torch.cat([written(model, row) for row in rows]))


@every_implementation
def test_beams(implementation):
    model, tokens = decoder(TanhMaxLlamaForCausalLM, implementation), text()
    cached = written(model, tokens, num_beams=3)
    assert torch.equal(cached, written(model, tokens, num_beams=3, use_cache=False))
    naive = naive_twin(model, **CHANGES[TanhMaxLlamaForCausalLM])
    assert torch.equal(cached, written(naive, tokens, num_beams=3))


@every_implementation
def test_assisted_decoding(implementation):
    """A good and a bad assistant: drafts are accepted and thrown away, and the text stays the same."""
    model, tokens = decoder(TanhMaxLlamaForCausalLM, implementation), text(1, 11)
    wanted = written(model, tokens)
    other = transformers.LlamaForCausalLM(softmax_twin(model, **CHANGES[TanhMaxLlamaForCausalLM]).config).eval()
    for assistant in (model, other):
        assert torch.equal(written(model, tokens, assistant_model=assistant), wanted)
    assert torch.equal(written(model, tokens, prompt_lookup_num_tokens=3), wanted)


@every_implementation
def test_attentions_while_generating(implementation):
    model, tokens = decoder(TanhMaxLlamaForCausalLM, implementation), text(1, 5)
    found = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=3,
        do_sample=False,
        output_attentions=True,
        return_dict_in_generate=True,
    )
    whole = run(naive_twin(model, **CHANGES[TanhMaxLlamaForCausalLM]), {"input_ids": found.sequences}, output_attentions=True).attentions
    assert any((layer < 0).any() for layer in whole)
    for step, layers in enumerate(found.attentions):
        rows = slice(0, 5) if step == 0 else slice(4 + step, 5 + step)
        for have, want in zip(layers, whole, strict=True):
            torch.testing.assert_close(have, want[:, :, rows, : 5 + step], atol=1e-5, rtol=1e-4)


@every_implementation
def test_continuous_batching(implementation):
    model = decoder(TanhMaxLlamaForCausalLM, implementation)
    prompts = [text(1, 11), text(1, 6), text(1, 3)]
    wanted = [written(model, prompt)[0].tolist() for prompt in prompts]
    batching = transformers.ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=16)
    found = model.generate_batch(
        [prompt[0].tolist() for prompt in prompts],
        generation_config=GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=0),
        continuous_batching_config=batching,
    )
    assert [each.generated_tokens for each in found.values()] == wanted
    assert model.config._attn_implementation == implementation
    assert not model._supports_flash_attn
