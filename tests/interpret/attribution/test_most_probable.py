"""The most probable targets, the largest logit first."""

import pytest
import torch
from families import images, text, tiny_model

import hf_tanhmax
from hf_tanhmax.interpret import explain, most_probable


def test_they_are_the_largest_logits():
    model, inputs = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification, num_labels=5), {"input_ids": text(1, 5)}
    with torch.no_grad():
        logits = model.eval()(**inputs).logits[0]
    assert most_probable(model, inputs, 3) == tuple(logits.argsort(descending=True)[:3].tolist())
    assert len(most_probable(model, inputs, 9)) == 5
    assert explain(model, inputs, methods=("weights",)).target == most_probable(model, inputs, 1)[0]


def test_of_a_picture_and_of_a_position():
    vit = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification, num_labels=3)
    assert sorted(most_probable(vit, {"pixel_values": images(1)}, 3)) == [0, 1, 2]
    llama, inputs = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM), {"input_ids": text(1, 5)}
    with torch.no_grad():
        assert most_probable(llama, inputs, 1, position=2) == (int(llama.eval()(**inputs).logits[0, 2].argmax()),)


def test_how_many_must_be_one_or_more():
    with pytest.raises(ValueError, match="count must be 1 or more, but is 0"):
        most_probable(tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification), {"input_ids": text(1, 5)}, 0)
