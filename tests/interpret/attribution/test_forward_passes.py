"""Forward passes for one row of logits per input; and forward and backward, with gradients as captum computes them."""

import pytest
import torch
from families import images, text, tiny_model

import hf_tanhmax
from hf_tanhmax.interpret.attribution.evaluation_mode import evaluation_mode
from hf_tanhmax.interpret.attribution.forward_passes import forward_backward, target_logits, without_cache


def test_gradients_of_embeddings_are_captums():
    captum = pytest.importorskip("captum.attr")
    model, ids = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification), text(1, 7)
    with evaluation_mode(model):
        result = forward_backward(model, {"input_ids": ids}, 1, [0])
    layer = captum.LayerGradientXActivation(lambda ids: model(input_ids=ids).logits[:, 1], model.get_input_embeddings())
    torch.testing.assert_close(result.input_x_gradient, layer.attribute(ids).detach()[0].sum(-1), atol=1e-6, rtol=1e-4)
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    saliency = captum.Saliency(lambda embeddings: model(inputs_embeds=embeddings).logits[:, 1]).attribute(embeddings, abs=False)
    torch.testing.assert_close(result.gradient, saliency[0].norm(dim=-1), atol=1e-6, rtol=1e-4)


def test_gradients_of_pixels_are_captums():
    captum = pytest.importorskip("captum.attr")
    model, pixels = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification), images(1)
    with evaluation_mode(model):
        result = forward_backward(model, {"pixel_values": pixels}, 1, [0])
    product = captum.InputXGradient(lambda pixels: model(pixel_values=pixels).logits[:, 1]).attribute(pixels.clone().requires_grad_())
    torch.testing.assert_close(result.input_x_gradient, product.detach()[0].sum(0), atol=1e-6, rtol=1e-4)


def test_queries_that_the_logit_depends_on():
    with evaluation_mode(model := tiny_model(hf_tanhmax.TanhMaxBertForTokenClassification)):
        result = forward_backward(model, {"input_ids": text(1, 5)}, 1, [0, 2], position=3)
    assert result.has_gradient.tolist() == [[True] * 5, [False, False, False, True, False]]
    with evaluation_mode(model := tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM)):
        result = forward_backward(model, {"input_ids": text(1, 5)}, 1, [0, 2], position=2)
    assert result.has_gradient.tolist() == [[True, True, True, False, False], [False, False, True, False, False]]
    assert not result.contributions[:, :, 3:].any()


def test_a_head_that_pools_all_positions_has_no_position():
    model = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification)
    norm = model.vit.layernorm
    norm.register_forward_hook(lambda module, arguments, output: output.mean(1, keepdim=True).expand_as(output))
    with evaluation_mode(model):
        result = forward_backward(model, {"pixel_values": images(1)}, 1, [2])
    assert result.position is None
    assert bool(result.has_gradient.all())


@pytest.mark.parametrize("cls", [hf_tanhmax.TanhMaxLlamaForCausalLM, hf_tanhmax.TanhMaxBertForMaskedLM])
@pytest.mark.parametrize("positions", [(5, 5, 5), (0, 3, 5), (5, 5, 2)])
def test_rows_at_positions(cls, positions):
    model, ids = tiny_model(cls), text(3, 6)
    with torch.no_grad():
        want = model(input_ids=ids).logits[torch.arange(3), list(positions)]
        torch.testing.assert_close(target_logits(model, {"input_ids": ids}, positions), want)


def test_only_the_last_row_is_computed_where_it_is_all_that_is_read():
    model, sizes = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM), []
    model.lm_head.register_forward_hook(lambda module, arguments, output: sizes.append(output.shape[1]))
    with torch.no_grad():
        target_logits(model, {"input_ids": text(2, 6)}, [5, 5])
        target_logits(model, {"input_ids": text(2, 6)}, [5, 4])
    assert sizes == [1, 6]


def test_a_classifier_has_one_row():
    model, ids = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification), text(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(target_logits(model, {"input_ids": ids}, [None, None]), model(input_ids=ids).logits)


def test_no_cache_is_filled_where_there_could_be_one():
    assert without_cache(tiny_model(hf_tanhmax.TanhMaxLlamaModel)) == {"use_cache": False}
    assert without_cache(tiny_model(hf_tanhmax.TanhMaxViTModel)) == {}
