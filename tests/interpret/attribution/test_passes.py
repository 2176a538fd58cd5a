"""One forward and one backward pass: gradients as captum finds them, and rows that matter."""

import pytest
import torch
from families import images, text, tiny_model

import hf_tanhmax
from hf_tanhmax.interpret.attribution.evaluation import evaluating
from hf_tanhmax.interpret.attribution.passes import look

captum = pytest.importorskip("captum.attr")
NOTHING = {"position": None, "tokenizer": None}


def test_gradients_of_embeddings_are_captums():
    model, ids = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification), text(1, 7)
    with evaluating(model):
        found = look(model, {"input_ids": ids}, 1, [0], **NOTHING)
    layer = captum.LayerGradientXActivation(lambda ids: model(input_ids=ids).logits[:, 1], model.get_input_embeddings())
    torch.testing.assert_close(found.input_x_gradient, layer.attribute(ids).detach()[0].sum(-1), atol=1e-6, rtol=1e-4)
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    saliency = captum.Saliency(lambda embeddings: model(inputs_embeds=embeddings).logits[:, 1]).attribute(embeddings, abs=False)
    torch.testing.assert_close(found.gradient, saliency[0].norm(dim=-1), atol=1e-6, rtol=1e-4)


def test_gradients_of_pixels_are_captums():
    model, pixels = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification), images(1)
    with evaluating(model):
        found = look(model, {"pixel_values": pixels}, 1, [0], **NOTHING)
    product = captum.InputXGradient(lambda pixels: model(pixel_values=pixels).logits[:, 1]).attribute(pixels.clone().requires_grad_())
    torch.testing.assert_close(found.input_x_gradient, product.detach()[0].sum(0), atol=1e-6, rtol=1e-4)


def test_rows_that_the_logit_depends_on():
    with evaluating(model := tiny_model(hf_tanhmax.TanhMaxBertForTokenClassification)):
        found = look(model, {"input_ids": text(1, 5)}, 1, [0, 2], position=3, tokenizer=None)
    assert found.live.tolist() == [[True] * 5, [False, False, False, True, False]]
    with evaluating(model := tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM)):
        found = look(model, {"input_ids": text(1, 5)}, 1, [0, 2], position=2, tokenizer=None)
    assert found.live.tolist() == [[True, True, True, False, False], [False, False, True, False, False]]
    assert not found.contributions[:, :, 3:].any()


def test_a_head_that_pools_all_positions_has_no_position():
    model = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification)
    norm = model.vit.layernorm
    norm.register_forward_hook(lambda module, arguments, output: output.mean(1, keepdim=True).expand_as(output))
    with evaluating(model):
        found = look(model, {"pixel_values": images(1)}, 1, [2], **NOTHING)
    assert found.position is None
    assert bool(found.live.all())
