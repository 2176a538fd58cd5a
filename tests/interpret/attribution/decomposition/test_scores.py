"""Which methods a model serves, and the sentence that refuses the others."""

import pytest
import torch
import transformers
from walked import WALKED, picture

import hf_tanhmax
from hf_tanhmax.interpret import EXPLAIN_METHODS, METHODS, explain, methods_for

BUILT = ("value_zeroing", "attnlrp")


@pytest.mark.parametrize("name", ["mistral", "deit", "roberta"])
def test_layers_that_are_built_as_those_of_the_three_families(name):
    assert methods_for(WALKED[name].model()) == METHODS


@pytest.mark.parametrize("name", ["mistral", "dinov2_with_registers", "t5", "bart_decoder"])
def test_every_method_that_a_model_serves_works(name):
    case, model = WALKED[name], WALKED[name].model()
    methods = tuple(method for method in methods_for(model) if method not in EXPLAIN_METHODS)
    if case.kind == "image":
        found = explain(model, picture(), processor=case.processor(), methods=methods)
    else:
        found = explain(model, "a gripping, funny film", tokenizer=case.processor(), position=-1, methods=methods)
    assert tuple(found.scores) == methods
    assert all(scores.isfinite().all() for scores in found.scores.values())


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
