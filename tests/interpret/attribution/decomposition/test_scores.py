"""Which methods a model serves, and the sentence that refuses the others."""

import re

import pytest
import torch
import transformers
from tiny import tiny_inputs, tiny_model
from walked import WALKED, picture

import hf_tanhmax
from hf_tanhmax.interpret import EXPLAIN_METHODS, METHODS, explain, methods_for, methods_refused

BUILT = ("value_zeroing", "attnlrp")


@pytest.mark.parametrize("name", ["mistral", "deit", "roberta"])
def test_layers_that_are_built_as_those_of_the_three_families(name):
    assert methods_for(WALKED[name].model()) == METHODS


# Explained by one input as it is, in tests of many architectures; layers that only look like those of BERT, ViT and LLaMA are among them.
NAMED = [
    *("mistral", "qwen3", "gemma3_text", "roberta", "distilbert", "deit", "dinov2", "dinov2_with_registers", "beit", "siglip_vision"),
    *("clip_classifier", "t5", "bart", "bart_classifier", "bart_decoder"),
]
TYPES = [
    *("bert", "llama", "afmoe", "bitnet", "cohere2", "deepseek_v3", "doge", "esm", "fuyu", "gemma", "gemma2", "gemma3n_text", "glm4"),
    *("gpt2", "gpt_neox", "granite", "granitemoe", "mixtral", "nemotron", "olmo", "olmo2", "phi3", "qwen2_moe", "starcoder2", "xmod"),
]


def explained(name):
    """A model, and what explains one input of it by a method."""
    if name in TYPES:
        model = hf_tanhmax.convert(tiny_model(name))
        given, options = {"input_ids": tiny_inputs(model)["input_ids"][:1]}, {"position": -1}
    else:
        case, model = WALKED[name], WALKED[name].model()
        is_image = case.kind == "image"
        given, reader = (picture(), "processor") if is_image else ("a gripping, funny film", "tokenizer")
        options = {reader: case.processor(), "position": -1 if model.can_generate() else None}
    return model, lambda method: explain(model, given, 1, methods=(method,), **options).scores[method]


@pytest.mark.filterwarnings("ignore:weights that were trained for softmax")
@pytest.mark.filterwarnings("ignore:.*compute attention by themselves")
@pytest.mark.parametrize("name", [*NAMED, *TYPES])
def test_a_model_serves_the_methods_that_are_listed_and_no_other(name):
    model, run = explained(name)
    listed, refused = methods_for(model), methods_refused(model)
    assert sorted((*listed, *refused)) == sorted(METHODS)
    for method in METHODS[len(EXPLAIN_METHODS) :]:
        if method in listed:
            assert run(method).isfinite().all()
        else:
            said = f"{type(model).__name__} cannot be explained by {method}: {refused[method]}; it can be by {', '.join(listed)}"
            with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
                run(method)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("t5", "TanhMaxT5ForConditionalGeneration cannot be explained by attnlrp: its layers are not built as those of BERT, ViT or LLaMA"),
        ("dinov2_with_registers", r"cannot be explained by attnlrp: its layers are not .*; it can be by weights, .*, value_zeroing"),
    ],
)
def test_a_method_that_a_model_does_not_serve_is_refused(name, said):
    case = WALKED[name]
    given = {"pixel_values": case.inputs()["pixel_values"]} if case.kind == "image" else case.inputs()
    with pytest.raises(ValueError, match=said):
        explain(case.model(), given, methods=("attnlrp",))


SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
NOT_ADDED = "its layers do more to what attention writes than to add it to the residual stream"


@pytest.mark.filterwarnings("ignore:weights that were trained for softmax")
@pytest.mark.parametrize(
    ("kind", "changes", "method", "said"),
    [
        ("Granite", {"residual_multiplier": 0.22}, "alti", NOT_ADDED),
        ("Granite", {"residual_multiplier": 0.22}, "alti_logit", NOT_ADDED),
        ("Nemotron", {}, "attnlrp", "a norm is a NemotronLayerNorm1P, which computes something else than LayerNorm"),
        ("Olmo", {}, "attnlrp", "is a OlmoLayerNorm, which has no rule"),
        ("Mixtral", {"num_local_experts": 2}, "attnlrp", "keeps its experts in one tensor, so they have no rule"),
    ],
)
def test_names_alone_do_not_make_a_layer_known(kind, changes, method, said):
    config = getattr(transformers, f"{kind}Config")(**SIZES, num_key_value_heads=1, **changes)
    model = hf_tanhmax.convert(getattr(transformers, f"{kind}ForCausalLM")(config).eval())
    with pytest.raises(ValueError, match=said):
        explain(model, {"input_ids": torch.tensor([[3, 4, 5, 6]])}, 5, position=3, methods=(method,))
