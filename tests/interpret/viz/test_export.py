"""What bertviz and circuitsvis are given keeps every sign."""

import inspect

import pytest
import torch
from families import text, tiny_model

import hf_tanhmax
from hf_tanhmax.interpret import explain, to_bertviz, to_circuitsvis


@pytest.fixture(scope="module")
def found():
    return explain(tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM), {"input_ids": text(1, 5)}, methods=("weights",), layers=[0, 2])


@pytest.mark.parametrize("oriented", [True, False])
def test_bertviz_gets_positive_and_negative_parts_side_by_side(found, oriented):
    given = to_bertviz(found, oriented=oriented)
    assert [layer.shape for layer in given["attention"]] == [(1, 8, 5, 5)] * 2
    assert given["tokens"] == list(found.tokens)
    joined = torch.stack(given["attention"])[:, 0]
    assert float(joined.min()) == 0
    assert float(joined[:, 1::2].max()) > 0.1
    torch.testing.assert_close(joined[:, 0::2] - joined[:, 1::2], found.oriented if oriented else found.weights)


def test_circuitsvis_gets_a_symmetric_range_and_names(found):
    given = to_circuitsvis(found, oriented=False)
    torch.testing.assert_close(given["attention"], torch.cat(list(found.weights)))
    assert given["min_value"] == -given["max_value"] == -float(found.weights.abs().max())
    assert given["attention_head_names"] == ["L0H0", "L0H1", "L0H2", "L0H3", "L2H0", "L2H1", "L2H2", "L2H3"]
    assert given["mask_upper_tri"] is True
    assert given["negative_color"] != given["positive_color"]


def test_the_packages_take_these_arguments(found):
    circuitsvis = pytest.importorskip("circuitsvis.attention")
    inspect.signature(circuitsvis.attention_heads).bind(**to_circuitsvis(found))
    bertviz = pytest.importorskip("bertviz")
    for view in (bertviz.head_view, bertviz.model_view):
        html = view(**to_bertviz(found), html_action="return").data
        assert str(float(to_bertviz(found)["attention"][0][0, 1].max()))[:6] in html
