"""Layers that run one at a time: to the bit what the whole model computes, and which models have none such."""

import copy
from dataclasses import replace

import pytest
import torch
import transformers
from families import BACKBONES, CACHE, LAYERS, images, run, text, tiny_model

import hf_tanhmax
from hf_tanhmax.conversion import layers as layers_module
from hf_tanhmax.conversion.layers import Arguments, LayerArguments, adds_to_its_input, adds_to_its_output, find_layers, leaves
from hf_tanhmax.conversion.refitting import _adds_at_its_end, refit

SMALL = {"hidden_size": 24, "intermediate_size": 13, "num_attention_heads": 4, "num_hidden_layers": 2}
every_family = pytest.mark.parametrize("family", BACKBONES)
TINY = {
    "vocab_size": 53, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3,
    "intermediate_size": 13, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def inputs(family):
    if family == "vit":
        return {"pixel_values": images(3)}
    mask = torch.ones(3, 11, dtype=torch.int64)
    mask[1, 7:] = 0
    return {"input_ids": text(3, 11), "attention_mask": mask}


def one_at_a_time(model, batch):
    layers = find_layers(model, "run")
    hidden, arguments = LayerArguments(model, layers).read(batch)
    states = [hidden]
    for layer, each in zip(layers, arguments, strict=True):
        states.append(layer(states[-1], each))
    return states


@every_family
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_layers_are_the_whole(family, implementation):
    model = tiny_model(BACKBONES[family], attn_implementation=implementation, tanhmax_polarity=0.4)
    states = one_at_a_time(model, inputs(family))
    wanted = run(model, inputs(family), output_hidden_states=True).hidden_states
    for have, want in zip(states[: LAYERS - 1], wanted, strict=False):
        assert torch.equal(have, want)
    if family == "bert":
        assert torch.equal(states[-1], wanted[-1])


@every_family
@torch.no_grad()
def test_softmax_heads_and_other_parameters(family):
    model, batch = tiny_model(BACKBONES[family]), inputs(family)
    softmax = tiny_model(BACKBONES[family], tanhmax_polarity=0.0)
    layer, other = find_layers(model, "run")[0], find_layers(softmax, "run")[0]
    hidden, arguments = LayerArguments(model, find_layers(model, "run")).read(batch)
    added, after, real = layer.softmax(hidden, arguments[0])
    assert torch.equal(after, other(hidden, arguments[0]))
    heads, output, beside = other.heads(hidden, arguments[0])
    assert beside is hidden
    assert torch.equal(output, added)
    assert torch.equal(other.output(heads), output)
    assert real.tolist() == (batch["attention_mask"].bool() if family != "vit" else torch.ones(3, 10).bool()).tolist()
    doubled = {name: 2 * value for name, value in layer.module.named_parameters() if value is layer.output.weight}
    assert torch.allclose(
        layer.softmax(hidden, arguments[0], doubled)[0], 2 * added - (layer.output.bias if layer.output.bias is not None else 0)
    )
    assert torch.equal(layer.softmax(hidden, arguments[0])[0], added)
    assert adds_to_its_input(layer, hidden, arguments[0])


@torch.no_grad()
def test_later_batches_run_to_the_first_layer_only():
    model = tiny_model(BACKBONES["llama"])
    reader, calls = LayerArguments(model, find_layers(model, "run")), []
    model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    found = [reader.read(inputs("llama")) for _ in range(3)]
    assert len(calls) == 1
    assert model.config.use_cache
    assert all(isinstance(each, torch.Tensor | str | int | float | None) for each in leaves(found[2][1]))
    for one, other in zip(leaves(found[0][1]), leaves(found[2][1]), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def sliding():
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    return transformers.Qwen2Model(transformers.Qwen2Config(**TINY, use_sliding_window=True, sliding_window=4, layer_types=kinds))


@torch.no_grad()
def test_layers_with_arguments_of_their_own():
    """Where layers see windows, every batch is read whole."""
    torch.manual_seed(0)
    model, batch = sliding().eval().double(), inputs("llama")
    assert torch.equal(one_at_a_time(model, batch)[2], run(model, batch, output_hidden_states=True).hidden_states[2])
    reader = LayerArguments(model, find_layers(model, "run"))
    for _ in range(2):
        _, arguments = reader.read(batch)
        assert not torch.equal(arguments[0].keyword["attention_mask"], arguments[1].keyword["attention_mask"])
        assert torch.equal(arguments[0].keyword["attention_mask"], arguments[2].keyword["attention_mask"])
    softmax = copy.deepcopy(model)
    hf_tanhmax.use_tanhmax(model, hf_tanhmax.TanhMaxSettings(polarity=0.3, shift="balanced"))
    batches = [{**batch, "input_ids": batch["input_ids"].roll(shift, 1)} for shift in range(3)]
    wanted, before = (run(each, batch).last_hidden_state for each in (softmax, model))
    refit(model, batches, bias=False)
    assert (run(model, batch).last_hidden_state - wanted).norm() < (before - wanted).norm()


# What is refused


def refused(model, match, error=NotImplementedError):
    torch.manual_seed(0)
    model = model.eval()
    hf_tanhmax.use_tanhmax(model, hf_tanhmax.TanhMaxSettings(polarity=0.3, shift="balanced"))
    with pytest.raises(error, match=match):
        refit(model, [inputs("llama") for _ in range(2)], bias=False)


def test_layers_that_normalise_what_attention_adds():
    config = transformers.Gemma2Config(**{**TINY, "head_dim": 6, "query_pre_attn_scalar": 6, "sliding_window": 4})
    refused(
        transformers.Gemma2Model(config), "Gemma2DecoderLayer does more with its input than to add to it what .*, so it cannot be refitted"
    )


@torch.no_grad()
def test_layers_whose_parts_run_side_by_side():
    """Attention and MLP of Cohere read the same input: what the output projection returns is added at the end of the layer."""
    torch.manual_seed(0)
    model, batch = transformers.CohereModel(transformers.CohereConfig(**TINY)).eval(), inputs("llama")
    layer = find_layers(model, "run")[0]
    hidden, arguments = LayerArguments(model, find_layers(model, "run")).read(batch)
    assert not adds_to_its_input(layer, hidden, arguments[0])
    assert adds_to_its_output(layer, hidden, arguments[0])
    heads, _, beside = layer.heads(hidden, arguments[0], whole=True)
    torch.testing.assert_close(beside + layer.output(heads), layer(hidden, arguments[0]))
    torch.testing.assert_close(beside, hidden + layer.module.mlp(layer.module.input_layernorm(hidden)))
    gemma = transformers.Gemma2Model(transformers.Gemma2Config(**{**TINY, "head_dim": 6})).eval()
    layer = find_layers(gemma, "run")[0]
    hidden, arguments = LayerArguments(gemma, [layer]).read(batch)
    assert not adds_to_its_output(layer, hidden, arguments[0])


def test_layers_with_two_attention_modules():
    config = tiny_model(transformers.BertModel, is_decoder=True, add_cross_attention=True)
    refused(config, "the layers of BertModel cannot be run one at a time, as encoder.layer.0, .* has no single attention module of its own")


def test_layers_in_two_lists():
    config = transformers.BartConfig(
        vocab_size=53, d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=13, decoder_ffn_dim=13, max_position_embeddings=32,
    )  # fmt: skip
    refused(
        transformers.BartModel(config),
        r"the layers of BartModel cannot be run one at a time, as decoder\.layers\.0, decoder\.layers\.1 has no single attention module "
        r'of its own \(one list alone can be: convert with layers=\["encoder\.layers"\]\), so it cannot be refitted',
    )
    both = transformers.CLIPModel(transformers.CLIPConfig(text_config=SMALL, vision_config={**SMALL, "image_size": 15, "patch_size": 5}))
    refused(
        both, r"as they are in text_model\.encoder\.layers, vision_model\.encoder\.layers \(one list alone can be: convert with layers="
    )
    encoder = transformers.BartModel(config).encoder
    hf_tanhmax.use_tanhmax(encoder)
    assert [layer.name for layer in find_layers(encoder, "run")] == ["layers.0", "layers.1"]


@torch.no_grad()
def test_layers_that_do_not_follow_each_other():
    model = tiny_model(BACKBONES["llama"])
    model.layers[1].register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    layers = find_layers(model, "run")
    with pytest.raises(
        NotImplementedError, match=r"one at a time: layers.1 is called with something else than the layer before it returned"
    ):
        LayerArguments(model, layers).read(inputs("llama"))
    other = tiny_model(BACKBONES["llama"])
    reader = LayerArguments(other, [*find_layers(other, "run"), layers[0]])
    with pytest.raises(NotImplementedError, match=r"one at a time: 3 of its 4 layers were called for a batch of input_ids, attention_mask"):
        reader.read(inputs("llama"))


@torch.no_grad()
def test_arguments_that_cannot_be_kept():
    model = tiny_model(BACKBONES["llama"])
    cache = {CACHE: transformers.DynamicCache(config=model.config)}
    with pytest.raises(NotImplementedError, match="one at a time: they are called with DynamicCache, which cannot be kept"):
        LayerArguments(model, find_layers(model, "run")).read({**inputs("llama"), **cache})


def test_layers_of_the_part_that_computes_tanhmax():
    """The others stay softmax, so nothing of theirs is refitted; a block of T5 holds a list of its own, of which one item has attention."""
    small = {"vocab_size": 53, "d_model": 24, "d_kv": 6, "d_ff": 13, "num_heads": 4, "num_layers": 2}
    model = transformers.T5Model(transformers.T5Config(**small)).eval()
    hf_tanhmax.use_tanhmax(model, hf_tanhmax.TanhMaxSettings(layers=["encoder"]))
    layers = find_layers(model, "run")
    assert [layer.name for layer in layers] == ["encoder.block.0", "encoder.block.1"]
    assert all(isinstance(layer.module, type(model.encoder.block[0])) for layer in layers)
    hf_tanhmax.use_tanhmax(model)
    with pytest.raises(NotImplementedError, match=r"as decoder\.block\.0, decoder\.block\.1 has no single attention module of its own"):
        find_layers(model, "run")


@torch.no_grad()
def test_layers_that_do_not_call_what_they_should_or_in_pieces():
    model, batch = tiny_model(BACKBONES["bert"]), inputs("bert")
    layer = find_layers(model, "run")[0]
    hidden, _ = LayerArguments(model, find_layers(model, "run")).read(batch)
    other = replace(layer, output=torch.nn.Linear(21, 21))
    with pytest.raises(NotImplementedError, match="BertLayer calls BertSelfAttention 1 times, and its output projection 0 times, so it"):
        other.softmax(hidden, Arguments((), {}))

    class Halves(torch.nn.Module):
        def forward(self, hidden):
            return layer.module(hidden.unflatten(1, (2, -1)).flatten(0, 1)).unflatten(0, (-1, 2)).flatten(1, 2)

    with pytest.raises(NotImplementedError, match="BertSelfAttention attends to pieces of what Halves is called with, so it cannot be run"):
        _adds_at_its_end(replace(layer, module=Halves()), hidden[:, :10], Arguments((), {}))


def test_a_model_is_asked_for_its_attention_once(monkeypatch):
    """Not once per module, as that would take the square of their number."""
    asked, modules = [], layers_module.attention_modules
    monkeypatch.setattr(layers_module, "attention_modules", lambda model: asked.append(model) or modules(model))
    assert len(find_layers(tiny_model(BACKBONES["llama"]), "run")) == LAYERS
    assert len(asked) == 1
