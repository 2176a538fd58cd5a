"""Rank collapse against a forward pass written out from the layers' own parts, in float64."""

import pytest
import torch
from families import BACKBONES, LENGTH, VOCABULARY, tiny_model
from transformers import BertModel, GPT2Config, GPT2Model, LlamaModel, ViTModel

import hf_tanhmax
from hf_tanhmax.interpret.attribution.rank_collapse import rank_collapse

SOFTMAX = {"bert": BertModel, "vit": ViTModel, "llama": LlamaModel}
SWITCHES = [(True, True), (True, False), (False, True), (False, False)]


def model_of(family, attention):
    return tiny_model((SOFTMAX if attention == "softmax" else BACKBONES)[family], attn_implementation="eager").double()


def inputs_of(family, length=LENGTH):
    generator = torch.Generator().manual_seed(1)
    if family == "vit":
        return {"pixel_values": torch.randn(2, 3, 15, 15, generator=generator, dtype=torch.float64)}
    return {"input_ids": torch.randint(3, VOCABULARY, (2, length), generator=generator)}


@torch.no_grad()
def written_out(family, model, inputs, *, skip, mlp):
    """Hidden states before the first layer and after each, and what each attention gives."""
    add = float(skip)
    if family == "bert":
        hidden, layers, first = model.embeddings(inputs["input_ids"]), model.encoder.layer, None
    elif family == "vit":
        hidden, layers, first = model.embeddings(inputs["pixel_values"]), model.layers, None
    else:
        hidden, layers = model.embed_tokens(inputs["input_ids"]), model.layers
        positions = torch.arange(hidden.shape[1])[None]
        causal = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).tril()[None, None]
        first = {"position_embeddings": model.rotary_emb(hidden, positions), "attention_mask": causal}
        if model.config.model_type == "llama":
            first["attention_mask"] = torch.zeros(causal.shape, dtype=hidden.dtype).masked_fill(~causal, -1e300)
    states, attended = [hidden], []
    for layer in layers:
        if family == "bert":
            given = layer.attention.output.dense(layer.attention.self(hidden, None)[0])
            middle = layer.attention.output.LayerNorm(given + add * hidden)
            hidden = layer.output.LayerNorm(layer.output.dense(layer.intermediate(middle)) + add * middle) if mlp else middle
        else:
            before, attention, after = (
                (layer.layernorm_before, layer.attention, layer.layernorm_after)
                if family == "vit"
                else (layer.input_layernorm, layer.self_attn, layer.post_attention_layernorm)
            )
            given = attention(before(hidden), **(first or {}))[0]
            middle = given + add * hidden
            hidden = layer.mlp(after(middle)) + add * middle if mlp else middle
        attended.append(given)
        states.append(hidden)
    return states, attended


@pytest.mark.parametrize(("skip", "mlp"), SWITCHES)
@pytest.mark.parametrize("attention", ["softmax", "tanhmax"])
@pytest.mark.parametrize("family", ["bert", "vit", "llama"])
def test_written_out(family, attention, skip, mlp):
    model, inputs = model_of(family, attention), inputs_of(family)
    states, attended = written_out(family, model, inputs, skip=skip, mlp=mlp)
    found = rank_collapse(model, inputs, skip=skip, mlp=mlp)
    for layer, state in enumerate(states):
        residual = state - state.mean(1, keepdim=True)
        torch.testing.assert_close(found.norm[layer], state.norm(dim=(1, 2)).mean(), atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(found.residual[layer], residual.norm(dim=(1, 2)).mean(), atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(found.ratio[layer], (residual.norm(dim=(1, 2)) / state.norm(dim=(1, 2))).mean(), atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(found.attention_norm, torch.stack([given.norm(dim=(1, 2)).mean() for given in attended]))


def test_composite_norm_is_that_of_dong_et_al():
    model, inputs = model_of("bert", "softmax"), inputs_of("bert")
    states, _ = written_out("bert", model, inputs, skip=False, mlp=False)
    norms = [
        torch.stack([(torch.linalg.matrix_norm(x, 1) * torch.linalg.matrix_norm(x, torch.inf)).sqrt() for x in state]) for state in states
    ]
    torch.testing.assert_close(rank_collapse(model, inputs, skip=False, mlp=False, norm="composite").norm, torch.stack(norms).mean(1))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_padding_counts_for_nothing(family):
    model, short = model_of(family, "tanhmax"), inputs_of(family, 7)
    padded = torch.cat([short["input_ids"], torch.zeros(2, 4, dtype=torch.int64)], dim=1)
    mask = (torch.arange(11) < 7).expand(2, 11).long()
    with_padding = rank_collapse(model, {"input_ids": padded, "attention_mask": mask}, skip=False)
    without = rank_collapse(model, {**short, "attention_mask": torch.ones(2, 7, dtype=torch.int64)}, skip=False)
    torch.testing.assert_close(with_padding.ratio, without.ratio)
    torch.testing.assert_close(with_padding.attention_norm, without.attention_norm)


def hooks_of(model):
    return [(*module._forward_hooks, *module._forward_pre_hooks) for module in model.modules()]


def test_the_model_is_left_as_it_was():
    model, inputs = model_of("llama", "tanhmax").train(), inputs_of("llama")
    hooks = hooks_of(model)  # a TanhMax model may have its own
    model.layers[1].eval()
    before = model.eval()(**inputs).last_hidden_state
    model.train()
    model.layers[1].eval()
    rank_collapse(model, inputs, skip=False, mlp=False)
    assert model.training
    assert not model.layers[1].training
    assert model.layers[0].mlp.training
    assert hooks_of(model) == hooks
    torch.testing.assert_close(model.eval()(**inputs).last_hidden_state, before, rtol=0, atol=0)


def test_hooks_are_gone_after_an_error():
    model = model_of("bert", "softmax")
    with pytest.raises(IndexError):
        rank_collapse(model, {"input_ids": torch.full((1, 3), VOCABULARY)})
    assert not any(hooks_of(model))


def test_softmax_collapses_and_tanhmax_does_not():
    softmax = model_of("bert", "softmax")
    inputs = inputs_of("bert")
    with_softmax = rank_collapse(softmax, inputs, skip=False, mlp=False).ratio
    with hf_tanhmax.tanhmax_on(softmax):
        with_tanhmax = rank_collapse(softmax, inputs, skip=False, mlp=False).ratio
    assert with_softmax[0] == with_tanhmax[0]
    assert with_softmax[-1] < 0.2 * with_tanhmax[-1]


def test_what_cannot_be_measured_is_said():
    inputs = inputs_of("bert")
    with pytest.raises(ValueError, match="GPT2Model has no layers of attention and MLP that are built as those of BERT, ViT or LLaMA"):
        rank_collapse(GPT2Model(GPT2Config(n_embd=6, n_head=2, n_layer=1, vocab_size=VOCABULARY)), inputs)
    with pytest.raises(ValueError, match="norm must be one of frobenius, composite, but is 'l2'"):
        rank_collapse(model_of("bert", "softmax"), inputs, norm="l2")
    broken = model_of("bert", "softmax")
    broken.encoder.layer[0].attention.output.dense.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="hidden states are not finite"):
        rank_collapse(broken, inputs)
