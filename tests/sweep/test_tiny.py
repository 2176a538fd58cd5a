"""Tiny models of any type are small, the same at every call, and run with their inputs."""

import pytest
import torch
from tiny import Untried, tiny_inputs, tiny_model

TYPES = ("bert", "llama", "t5", "vit", "swin", "clip", "whisper", "wav2vec2", "llava", "qwen2_vl", "mamba")
SMALL = 2_000_000  # parameters


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors(each)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_tiny_model_runs_with_its_inputs(model_type):
    model = tiny_model(model_type)
    assert not model.training
    assert sum(parameter.numel() for parameter in model.parameters()) < SMALL
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with torch.no_grad():
        outputs = [each for each in tensors(dict(model(**tiny_inputs(model)))) if each.is_floating_point()]
    assert outputs
    assert all(torch.isfinite(each).all() for each in outputs)


def test_a_tiny_model_and_its_inputs_are_the_same_at_every_call():
    first = tiny_model("qwen2_vl")
    torch.rand(7)
    second = tiny_model("qwen2_vl")
    assert all(torch.equal(left, right) for left, right in zip(first.parameters(), second.parameters(), strict=True))
    inputs = tiny_inputs(first)
    torch.rand(7)
    again = tiny_inputs(second)
    assert inputs.keys() == again.keys()
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)


def test_memory_that_a_model_forgets_to_initialise_is_drawn():
    parameters = list(tiny_model("qwen3_omni_moe_talker_text").parameters())  # its experts are allocated, and no more
    assert all(torch.isfinite(each).all() and 0 < each.abs().max() < 100 for each in parameters)


@pytest.mark.parametrize(("model_type", "head"), [("bert", "MultipleChoice"), ("bart", "SequenceClassification")])
def test_a_head_that_wants_other_inputs_has_them(model_type, head):
    model = tiny_model(model_type, f"AutoModelFor{head}")
    with torch.no_grad():
        assert model(**tiny_inputs(model)).logits.shape[0] == 2


def test_sounds_after_the_first_end_in_padding():
    inputs = tiny_inputs(tiny_model("wav2vec2"))
    assert inputs["attention_mask"].shape == inputs["input_values"].shape
    assert inputs["attention_mask"][0].all()
    assert not inputs["attention_mask"][1, -1]


def test_rows_after_the_first_end_in_padding():
    inputs = tiny_inputs(tiny_model("llama"), batch=3)
    assert inputs["input_ids"].shape[0] == 3
    assert inputs["attention_mask"][0].all()
    assert not inputs["attention_mask"][1:, -1].any()


def test_the_tokens_of_an_image_have_their_places():
    model = tiny_model("llava")
    inputs = tiny_inputs(model)
    assert ((inputs["input_ids"] == model.config.image_token_id).sum(1) == 16).all()


def test_attention_of_a_tiny_model_is_far_from_uniform():
    model = tiny_model("bert")
    model.set_attn_implementation("eager")
    inputs = tiny_inputs(model)
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions[0][0]
    assert weights.max(-1).values.mean() > 2 / inputs["input_ids"].shape[1]


def test_a_head_is_chosen_by_the_name_of_its_auto_class():
    assert type(tiny_model("bert", "AutoModelForSequenceClassification")).__name__ == "BertForSequenceClassification"
    with pytest.raises(Untried, match="AutoModelForCTC has no head of bert"):
        tiny_model("bert", "AutoModelForCTC")


def test_a_type_without_a_class_of_its_own_is_untried():
    with pytest.raises(Untried, match="is a part of another type's config and has no model class of its own"):
        tiny_model("t5_gemma_module")
