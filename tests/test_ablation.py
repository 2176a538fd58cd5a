"""What an ablation says: verdicts from intervals, its table, its file."""

import json

import pytest

from hf_tanhmax.ablation import ACCURACY, LOSS, Effect, NegativesAblation, read_ablation
from hf_tanhmax.choices import INTERVENTIONS

NAMES = ("negatives_masked", "negatives_spread", "negatives_permuted")


def made(*intervals, metric=ACCURACY, names=NAMES, **changes):
    """An ablation with intervals of the first interventions; values are in the middle."""
    as_is = 0.75 if metric == ACCURACY else 3.0
    middles = [(low + high) / 2 for low, high in intervals]
    effects = {
        name: Effect(as_is + middle, middle, low, high) for name, middle, (low, high) in zip(names, middles, intervals, strict=False)
    }
    values = {"attention": "TanhMax", "metric": metric, "rows": 1821, "as_is": as_is, "negative_mass": 0.107}
    return NegativesAblation("minilm", **{**values, "effects": effects, "negative_mass_per_layer": (0.1, 0.114), **changes})


NOTHING = (-0.004, 0.006)
PATTERN = (
    "It was not found to matter which keys are negative: spreading them evenly over the keys makes a difference of +0.1 points "
    "[-0.4, +0.6], moving them to random keys makes a difference of +0.1 points [-0.4, +0.6]."
)


@pytest.mark.parametrize(
    ("ablation", "verdict", "matters"),
    [
        (
            made(NOTHING, NOTHING, NOTHING),
            "No effect of the negative weights was found: masking them makes a difference of +0.1 points [-0.4, +0.6]. " + PATTERN,
            False,
        ),
        (
            made((-0.132, -0.089), NOTHING, NOTHING),
            "The negative weights are used: masking them costs 11.1 points [8.9, 13.2]. " + PATTERN,
            True,
        ),
        (
            made((-0.132, -0.089), (-0.02, -0.01), NOTHING),
            "The negative weights carry information: masking them costs 11.1 points [8.9, 13.2]. Which keys are negative matters: "
            "spreading them evenly over the keys costs 1.5 points [1.0, 2.0].",
            True,
        ),
        (
            made(NOTHING, (-0.02, -0.01), (-0.04, -0.02)),
            "The negative weights carry information: masking them makes a difference of +0.1 points [-0.4, +0.6]. Which keys are negative "
            "matters: spreading them evenly over the keys costs 1.5 points [1.0, 2.0] and moving them to random keys costs 3.0 points "
            "[2.0, 4.0].",
            True,
        ),
        (
            made((0.01, 0.02)),
            "The model is better without its negative weights: masking them gains 1.5 points [1.0, 2.0].",
            False,
        ),
        (
            made((-0.02, 0.0)),
            "No effect of the negative weights was found: masking them makes a difference of -1.0 points [-2.0, 0.0].",
            False,
        ),
        (
            made((0.5, 0.7), (-0.01, 0.03), metric=LOSS),
            "The negative weights are used: masking them costs 0.600 nats per token [0.500, 0.700]. It was not found to matter which keys "
            "are negative: spreading them evenly over the keys makes a difference of +0.010 nats per token [-0.010, +0.030].",
            True,
        ),
        (
            made((-0.7, -0.5), metric=LOSS),
            "The model is better without its negative weights: masking them gains 0.600 nats per token [0.500, 0.700].",
            False,
        ),
        (made((-0.2, -0.1), names=("made_positive",)), "No verdict: it needs the intervention negatives_masked.", False),
    ],
)
def test_the_verdict_follows_from_the_intervals(ablation, verdict, matters):
    assert ablation.verdict == verdict
    assert ablation.matters is matters
    assert ablation.describe().endswith(verdict)


def cells(ablation):
    """The table without its rule, and without the spaces that align it."""
    header, _, *lines = ablation.table().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in (header, *lines)]


def test_tables():
    assert cells(made((-0.13, -0.09), NOTHING)) == [
        ["attention weights", "accuracy (%)", "difference [95% interval]"],
        ["as they are", "75.0", ""],
        ["negative keys masked", "64.0", "-11.0 [-13.0, -9.0]"],
        ["negative weight spread evenly over the keys", "75.1", "+0.1 [-0.4, +0.6]"],
    ]
    assert [line[1:3] for line in cells(made((0.5, 0.7), (9.0, 11.0), metric=LOSS))] == [
        [LOSS, "perplexity"],
        ["3.000", "20.09"],
        ["3.600", "36.60"],
        ["13.000", "4.42e+05"],
    ]


def test_what_is_saved_is_read(tmp_path):
    ablation = made(NOTHING, NOTHING, NOTHING, settings={"seed": 3})
    ablation.save(tmp_path)
    assert read_ablation(tmp_path) == ablation
    assert json.loads((tmp_path / "ablation.json").read_text())["verdict"] == ablation.verdict
    ablation.save(tmp_path / "other.json")
    assert (tmp_path / "other.json").read_text() == (tmp_path / "ablation.json").read_text()
    assert read_ablation(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "change",
    [
        {"metric": "luck"},
        {"effects": {"luck": {}}},
        {"effects": {}},
        {"effects": {"negatives_masked": {"value": 1}}},
        {"effects": {"negatives_masked": {"value": "1", "difference": 0, "low": 0, "high": 0}}},
        {"rows": "many"},
        {"negative_mass_per_layer": 3},
        {"more": 1},
        {"settings": 3},
        None,
    ],
)
def test_a_file_that_is_none(change, tmp_path):
    values = made(NOTHING).to_dict()
    (tmp_path / "ablation.json").write_text("[]" if change is None else json.dumps({**values, **change}))
    with pytest.raises(ValueError, match=r"ablation\.json is no ablation of a model; run hf-tanhmax ablate again, or delete the file"):
        read_ablation(tmp_path)


def test_only_what_there_is():
    with pytest.raises(ValueError, match="metric must be 'accuracy' or 'loss per token', but is 'f1'"):
        made(NOTHING, metric="f1")
    with pytest.raises(ValueError, match="there is no intervention 'luck'"):
        made(NOTHING, names=("luck",))
    assert set(NAMES) < set(INTERVENTIONS)
