"""The data of the page: facts, and which matrices it holds."""

import base64
import io
import json
from dataclasses import replace

import pytest
import torch
from made_explanations import made, made_of_image
from PIL import Image

from hf_tanhmax.interpret.viz import page_data
from hf_tanhmax.interpret.viz.packing import unpack
from hf_tanhmax.interpret.viz.page_data import blocks, facts, keep_all_contributions, shown_matrices


def test_facts_are_json_and_the_explanation():
    explanation = made(notes=("mind\nthis",))
    told = json.loads(json.dumps(facts(explanation, whole=True), allow_nan=False))
    assert told["tokens"] == list(explanation.tokens)
    assert told["word_of"] == list(explanation.words)
    assert told["notes"] == ["mind↵this"]
    assert (told["queries"], told["row"], told["image"]) == (7, 0, None)
    torch.testing.assert_close(torch.tensor(told["scores"]["rollout"]), explanation.scores["rollout"])
    reaches = torch.stack([torch.tensor(part["reach"]["weights"]) for part in told["parts"].values()])
    torch.testing.assert_close(reaches.amax(0), explanation.weights.abs().amax((-2, -1)))
    assert told["kinds"] == [1, 0, 0, 0, 0, 0, 1]
    assert (told["unknown"], told["cut"], told["warnings"]) == ([], 0, 0)
    negative = explanation.weights.clamp(max=0).abs().sum((-2, -1)) / explanation.weights.abs().sum((-2, -1))
    torch.testing.assert_close(torch.tensor(told["negative"]), negative)
    assert told["negative"][1] == [0, 0, 0]  # softmax


def test_a_head_without_any_weight_has_no_negative_share():
    assert facts(made(weights=torch.zeros(2, 3, 7, 7)), whole=True)["negative"] == [[0, 0, 0], [0, 0, 0]]


def test_what_the_model_has_not_read_is_told():
    told = facts(made(unknown=(2,), cut=5), whole=True)
    assert (told["unknown"], told["cut"], told["warnings"]) == ([2], 5, 2)


def test_a_twin_hides_what_its_model_hides():
    assert facts(made(), whole=True, kinds=[0, 2, 0, 0, 0, 0, 0])["kinds"][1] == 2


def test_every_block_is_its_matrix():
    explanation = made()
    matrices = shown_matrices(explanation, whole=True)
    assert list(matrices) == ["weights", "contributions"]
    for kind, wanted in matrices.items():
        assert wanted is getattr(explanation, kind)
        seen = set()
        for layer, head, packed in blocks(wanted, budget=9):
            found = torch.from_numpy(unpack(packed)).reshape(7, 7)
            torch.testing.assert_close(found, wanted[layer, head], rtol=2**-11, atol=1e-6)
            seen.add((layer, head))
        assert len(seen) == 2 * 3
    assert {packed.levels for _, _, packed in blocks(explanation.weights, budget=0.1)} == {7}


@pytest.mark.parametrize(("position", "queries"), [(0, 7), (5, 7), (6, 3), (None, 7)])
def test_a_row_of_contributions(position, queries):
    """The row of the position that is read, counted from the end where there are fewer queries than keys; all together if all are read."""
    whole = made(position=position)
    explanation = replace(whole, weights=whole.weights[:, :, -queries:], contributions=whole.contributions[:, :, -queries:])
    wanted = whole.contributions.sum(-2) if position is None else whole.contributions[:, :, position]
    found = shown_matrices(explanation, whole=False)["contributions"]
    torch.testing.assert_close(found.squeeze(-2), wanted)
    assert shown_matrices(explanation, whole=False)["weights"] is explanation.weights


def test_when_contributions_are_whole(monkeypatch):
    small = made()
    assert keep_all_contributions([small], "auto")
    assert not keep_all_contributions([small], "row")
    monkeypatch.setattr(page_data, "LARGEST_WHOLE", 2 * (2 * 3 * 7 * 7))
    assert keep_all_contributions([small], "auto")
    assert not keep_all_contributions([small, small], "auto")
    assert keep_all_contributions([small, small], "all")
    with pytest.raises(ValueError, match=r'contributions must be one of auto, all, row, but is "some"'):
        keep_all_contributions([small], "some")


@pytest.mark.parametrize(("size", "kind", "shown"), [((60, 40), "PNG", (60, 40)), ((1200, 800), "JPEG", (768, 512))])
def test_an_image_is_inside(size, kind, shown):
    address = facts(made_of_image(size=size), whole=True)["image"]
    head, text = address.split(",")
    assert head == f"data:image/{kind.lower()};base64"
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert (image.format, image.size) == (kind, shown)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none(bad):
    with pytest.raises(ValueError, match=r"the weights are not finite: there is NaN or infinity among them"):
        facts(made(weights=torch.full((2, 3, 7, 7), bad)), whole=True)
    with pytest.raises(ValueError, match=r'the scores "mine" are not finite'):
        facts(made(scores={"mine": torch.full((7,), bad)}), whole=True)
