"""Metrics of a made-up model whose probability is known in closed form."""

import math

import numpy
import pytest

from hf_tanhmax.interpret.faithfulness.metrics import MEASURES, MeasuredExample, importances, with_mean

EFFECTS = numpy.array([0.3, -0.1, 0.05, 0.0, 0.2])
POSITIONS = (1, 2, 3, 5, 6)


def probability(copy):
    """0.5, less the effect of each position that is erased; shuffles and random weights take 0.01 per draw."""
    if copy.kind == "soft":
        return soft(copy)
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
        named = {example.original, *measure.shared(example), *measure.copies(example, EFFECTS)}

        def lookup(copy, named=named):
            assert copy in named
            return probability(copy)

        measure.value(example, EFFECTS, lookup)


def soft(copy):
    """0.5, less of the effect of each position what is not retained."""
    chances = dict(zip(sorted(copy.erased), copy.retained, strict=True))
    return 0.5 - sum(effect * (1 - chances.get(place, 1.0)) for place, effect in zip(POSITIONS, EFFECTS, strict=True))


def soft_value(measure, scores, **changes):
    return MEASURES[measure].value(MeasuredExample(0, POSITIONS, **changes), numpy.asarray(scores, dtype=float), soft)


def test_soft_measures_by_hand():
    """Importances of the effects are (1, 0, .375, .25, .75); erasing all takes 0.45."""
    importance = numpy.array([1, 0, 0.375, 0.25, 0.75])
    assert importances(EFFECTS) == pytest.approx(importance)
    assert soft_value("soft_comprehensiveness", EFFECTS) == pytest.approx(EFFECTS @ importance / 0.45)
    assert soft_value("soft_sufficiency", EFFECTS) == 1  # what is retained would raise p, which counts as no drop
    assert soft_value("soft_sufficiency", -EFFECTS) == pytest.approx(1 - EFFECTS @ importance / 0.45)


def test_scores_that_retain_more_gain_nothing_under_control():
    """Squared, scores keep their order and a smaller mean; uncontrolled sufficiency rewards the larger one."""
    high, low = numpy.array([1, 0, 0.9, 0.9, 0.9]), numpy.array([1, 0, 0.1, 0.1, 0.1])
    for name in ("soft_sufficiency", "soft_comprehensiveness"):
        uncontrolled, controlled = (
            soft_value(name, high) - soft_value(name, low),
            soft_value(f"pi_{name}", high) - soft_value(f"pi_{name}", low),
        )
        assert abs(controlled) < abs(uncontrolled)


@pytest.mark.parametrize("pi", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_chances_have_the_mean_that_is_asked_for(pi):
    for chances in (numpy.array([0.0, 0.1, 0.9, 1.0]), numpy.array([0.0, 1.0]), numpy.full(3, 0.5), numpy.zeros(2), numpy.ones(2)):
        found = with_mean(chances, pi)
        assert found.mean() == pytest.approx(pi)
        assert ((found >= 0) & (found <= 1)).all()
        assert (numpy.argsort(found, kind="stable") == numpy.argsort(chances, kind="stable")).all() or pi in (0, 1)


@pytest.mark.parametrize("name", ["soft_comprehensiveness", "soft_sufficiency", "pi_soft_comprehensiveness", "pi_soft_sufficiency"])
def test_soft_measures_are_about_the_scores_and_need_a_change(name):
    assert soft_value(name, EFFECTS) > soft_value(name, -EFFECTS)
    assert soft_value(name, EFFECTS) == pytest.approx(soft_value(name, 3 * EFFECTS + 1))
    measure, example = MEASURES[name], MeasuredExample(0, POSITIONS)
    assert math.isnan(measure.value(example, EFFECTS, lambda copy: 0.5 - 0.04 * bool(copy.erased)))
    assert measure.value(example, EFFECTS, lambda copy: 0.5 - 0.06 * bool(copy.erased)) == pytest.approx(float("sufficiency" not in name))
    seeds = {copy.seed for copy in measure.copies(MeasuredExample(0, POSITIONS, seed=3), EFFECTS) if any(copy.retained)}
    assert seeds == {3}
    assert measure.of_seed


def test_every_score_alike_retains_half():
    copies = MEASURES["soft_sufficiency"].copies(MeasuredExample(0, POSITIONS), numpy.ones(5))
    assert [copy.retained for copy in copies] == [(0.5,) * 5]
