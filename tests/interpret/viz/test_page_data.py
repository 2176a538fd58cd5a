"""The data of the page: facts, which matrices it holds, and matrices as text within the errors of float16."""

import base64
import io
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_explanations import made, made_of_image
from PIL import Image

from hf_tanhmax.interpret.viz import page_data
from hf_tanhmax.interpret.viz.page_data import BYTES_PER_NUMBER, blocks, facts, keep_all_contributions, pack


def unpack(scale, text):
    """The numbers of a packed matrix, as the page reads them: flat float32."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(BYTES_PER_NUMBER, -1)
    return torch.from_numpy(np.ascontiguousarray(planes.T).view("<f2").reshape(-1).astype(np.float32) * np.float32(scale))


def test_facts_are_json_and_the_explanation():
    explanation = made(notes=("mind\nthis",))
    told = json.loads(json.dumps(facts(explanation, whole=True), allow_nan=False))
    assert told["tokens"] == list(explanation.tokens)
    assert told["word_of"] == list(explanation.words)
    assert told["notes"] == ["mind↵this"]
    assert (told["queries"], told["row"], told["image"]) == (7, 0, None)
    torch.testing.assert_close(torch.tensor(told["scores"]["rollout"]), explanation.scores["rollout"])
    torch.testing.assert_close(torch.tensor(told["reach"]["weights"]), explanation.weights.abs().amax((-2, -1)))
    negative = explanation.weights.clamp(max=0).abs().sum((-2, -1)) / explanation.weights.abs().sum((-2, -1))
    torch.testing.assert_close(torch.tensor(told["negative"]), negative)
    assert told["negative"][1] == [0, 0, 0]  # softmax


def test_a_head_without_any_weight_has_no_negative_share():
    assert facts(made(weights=torch.zeros(2, 3, 7, 7)), whole=True)["negative"] == [[0, 0, 0], [0, 0, 0]]


def test_every_block_is_its_matrix():
    explanation = made()
    seen = set()
    for kind, layer, head, scale, text in blocks(explanation, whole=True):
        wanted = getattr(explanation, kind)[layer, head]
        torch.testing.assert_close(unpack(scale, text).reshape(7, 7), wanted, rtol=2**-11, atol=1e-6)
        seen.add((kind, layer, head))
    assert len(seen) == 2 * 2 * 3


@pytest.mark.parametrize(("position", "queries"), [(0, 7), (5, 7), (6, 3), (None, 7)])
def test_a_row_of_contributions(position, queries):
    """The row of the position that is read, counted from the end where there are fewer queries than keys; all together if all are read."""
    whole = made(position=position)
    explanation = replace(whole, weights=whole.weights[:, :, -queries:], contributions=whole.contributions[:, :, -queries:])
    wanted = whole.contributions.sum(-2) if position is None else whole.contributions[:, :, position]
    for kind, layer, head, scale, text in blocks(explanation, whole=False):
        if kind == "contributions":
            torch.testing.assert_close(unpack(scale, text), wanted[layer, head], rtol=2**-11, atol=1e-6)


def test_when_contributions_are_whole(monkeypatch):
    small = made()
    assert keep_all_contributions([small], "auto")
    assert not keep_all_contributions([small], "row")
    monkeypatch.setattr(page_data, "LARGEST_WHOLE", 2 * 2 * (2 * 3 * 7 * 7))
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


@pytest.mark.parametrize("size", [1e-30, 1e-6, 0.3, 1.0, 7e4])
def test_relative_and_absolute_error(size):
    matrix = torch.randn(37, 41).pow(5)
    matrix *= size / matrix.abs().max()
    back = unpack(*pack(matrix)).reshape(37, 41)
    error = (back - matrix).abs().double()
    assert (error <= torch.maximum(matrix.abs().double() * 2**-11, torch.tensor(size * 2**-24, dtype=torch.float64))).all()
    assert error.max() > 0


def test_what_is_exact():
    matrix = torch.tensor([[0.0, -0.25, 1.0], [0.5, -1.0, 2**-10]])
    scale, text = pack(matrix)
    assert scale == 1
    assert torch.equal(unpack(scale, text).reshape(2, 3), matrix)
    assert not unpack(*pack(torch.zeros(3, 5))).any()


def test_the_order_of_bytes():
    """As the page reads them: the low byte of every number, then the high one."""
    _, text = pack(torch.tensor([[1.0, -0.5]]))
    assert zlib.decompress(base64.b64decode(text)) == bytes([0x00, 0x00, 0x3C, 0xB8])
    assert np.float16(-0.5).view(np.uint16) == 0xB800


def test_a_causal_head_takes_little_more_than_half():
    full, causal = torch.randn(128, 128), torch.randn(128, 128).tril()
    assert len(pack(causal)[1]) < 0.6 * len(pack(full)[1]) < 0.6 * 128 * 128 * 2 * 4 / 3
