"""Which methods a model serves, and the sentence that refuses the others."""

import pytest
from walked import WALKED, picture

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
