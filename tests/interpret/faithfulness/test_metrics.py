"""Metrics of a made-up model whose probability is known in closed form."""

import math

import numpy
import pytest

from hf_tanhmax.interpret.faithfulness.metrics import MEASURES, MeasuredExample

EFFECTS = numpy.array([0.3, -0.1, 0.05, 0.0, 0.2])
POSITIONS = (1, 2, 3, 5, 6)


def probability(copy):
    """0.5, less the effect of each position that is erased; shuffles and random weights take 0.01 per draw."""
    if copy.kind in ("permutation", "random"):
        return 0.5 - 0.01 * copy.draw * (-1) ** copy.draw
    return 0.5 - sum(EFFECTS[POSITIONS.index(place)] for place in copy.erased)


def value(measure, scores, **changes):
    example = MeasuredExample(0, POSITIONS, **changes)
    return MEASURES[measure].value(example, numpy.asarray(scores, dtype=float), probability)


@pytest.mark.parametrize("kind", ["attention", "mask", "deletion"])
def test_tau_is_one_for_true_scores_and_minus_one_for_false_ones(kind):
    assert value(f"{kind}_tau", EFFECTS) == pytest.approx(1)
    assert value(f"{kind}_tau", -EFFECTS) == pytest.approx(-1)
    assert value(f"{kind}_abs_tau", -EFFECTS) == pytest.approx(1)
    assert math.isnan(value(f"{kind}_tau", numpy.ones(5)))


def test_sign_agreement_leaves_out_what_has_no_effect():
    assert value("sign_agreement", [1, -1, 1, -1, 1]) == 1
    assert value("sign_agreement", [1, 1, 1, 1, -1]) == 0.5


def test_comprehensiveness_and_sufficiency_of_the_top_positions():
    # Tops of 1, 1, 1, 1 and 3 of 5 positions; in order 0.3, 0.2, 0.05, 0, -0.1.
    assert value("comprehensiveness", EFFECTS) == pytest.approx((4 * 0.3 + 0.55) / 5)
    assert value("sufficiency", EFFECTS) == pytest.approx((4 * 0.15 - 0.1) / 5)
    assert {copy.kind for copy in MEASURES["sufficiency"].copies(MeasuredExample(0, POSITIONS), EFFECTS)} == {"deletion"}
    assert {copy.kind for copy in MEASURES["sufficiency"].copies(MeasuredExample(0, POSITIONS, "mask"), EFFECTS)} == {"mask"}


def test_curves():
    falling = [0.5, 0.2, 0.0, -0.05, -0.05, 0.05]
    assert value("deletion_auc", EFFECTS) == pytest.approx(sum(falling[1:-1]) / 5 + (falling[0] + falling[-1]) / 10)
    rising = [0.05, 0.35, 0.55, 0.6, 0.6, 0.5]
    assert value("insertion_auc", EFFECTS) == pytest.approx(sum(rising[1:-1]) / 5 + (rising[0] + rising[-1]) / 10)


@pytest.mark.parametrize("measure", ["permutation", "random"])
def test_replaced_attention_takes_the_median_change(measure):
    assert value(measure, EFFECTS, draws=5) == pytest.approx(0.02)
    assert MEASURES[measure].of_model


def test_every_value_needs_only_the_copies_it_named():
    for measure in MEASURES.values():
        example = MeasuredExample(0, POSITIONS)
        named = {example.original, *measure.copies(example, EFFECTS)}

        def lookup(copy, named=named):
            assert copy in named
            return probability(copy)

        measure.value(example, EFFECTS, lookup)
