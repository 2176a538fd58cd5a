"""Which positions can be hidden, and that what they add to a head is told apart."""

import pytest
import torch
from made_explanations import made

from hf_tanhmax.interpret.viz.positions import PADDING, SINK, SPECIAL, parts_of_heads, position_kinds, sink_positions
from hf_tanhmax.interpret.viz.views import VIEWS, head_matrices, head_numbers


def resting(position, heads):
    """Weights of 2 layers of 5 heads over 7 keys, of which so many heads rest on one position."""
    weights = torch.full((2, 5, 7, 7), 1 / 7)
    for head in range(heads):
        weights[0, head] = 0.05
        weights[0, head, :, position] = -0.8
    return weights


def test_a_sink_holds_much_of_a_tenth_of_the_heads():
    assert sink_positions(made(weights=resting(3, 1))) == (3,)
    assert sink_positions(made(weights=resting(3, 0))) == ()
    few = resting(3, 1).repeat(2, 1, 1, 1)
    few[2:] = 1 / 7
    assert sink_positions(made(weights=few)) == ()  # one head of twenty
    assert sink_positions(made(weights=torch.full((2, 3, 2, 2), 0.5))) == ()  # two keys share everything
    assert sink_positions(made(weights=torch.zeros(2, 3, 7, 7))) == ()


def test_kinds_add_up():
    explanation = made(weights=resting(0, 5), padding=(6,))
    assert position_kinds(explanation) == [SPECIAL + SINK, 0, 0, 0, 0, 0, SPECIAL + PADDING]


def test_parts_add_up_to_the_head():
    explanation = made(weights=resting(3, 5), orientation=torch.ones(2, 5), contributions=torch.randn(2, 5, 7, 7))
    kinds = position_kinds(explanation)
    parts = parts_of_heads(explanation, explanation.contributions, kinds)
    assert list(parts) == [0, SPECIAL, SINK]
    for view in VIEWS:
        torch.testing.assert_close(sum(part["numbers"][view] for part in parts.values()), head_numbers(explanation, view))
    kept = [position for position, kind in enumerate(kinds) if not kind & SINK]
    without = parts[0]["numbers"]["contributions"] + parts[SPECIAL]["numbers"]["contributions"]
    torch.testing.assert_close(without, explanation.contributions[..., kept].sum((-2, -1)))
    for name, view in (("weights", "raw"), ("contributions", "contributions")):
        for kind in parts:
            columns = [position for position, each in enumerate(kinds) if each == kind]
            torch.testing.assert_close(parts[kind]["reach"][name], head_matrices(explanation, view)[..., columns].abs().amax((-2, -1)))
    assert float(parts[SINK]["reach"]["weights"][0, 0]) == pytest.approx(0.8)
