"""What a conversion may be asked for, what is decided for a family, and what cannot go together."""

import math

import pytest

from hf_tanhmax.conversion.calibration.plan import Plan


@pytest.mark.parametrize(
    ("asked", "alignable", "decided"),
    [
        ({}, True, (1.0, None, False)),
        ({}, False, (1.0, None, False)),
        ({"shift": "balanced", "polarity": 0.3}, False, (0.3, "balanced", False)),
        ({"polarity": "learned"}, False, ("learned", None, False)),
        ({"calibrate": True}, True, (1.0, None, False)),
        ({"calibrate": True, "polarity": 0.0}, True, (0.0, None, False)),
        ({"calibrate": True, "refit": True, "balance": 0.4}, True, (1.0, None, True)),
        ({"calibrate": True}, False, (0.2, "balanced", None)),
        ({"calibrate": True, "balance": 0.4}, False, (0.4, "balanced", None)),
        ({"calibrate": True, "polarity": 0.4}, False, (0.4, "balanced", None)),
        ({"calibrate": True, "polarity": 0.4, "balance": 0.4}, False, (0.4, "balanced", None)),
        ({"calibrate": True, "refit": False, "transfer_steps": 9}, False, (0.2, "balanced", False)),
        ({"calibrate": True, "shift": "balanced"}, True, (0.2, "balanced", None)),
    ],
)
def test_what_is_decided(asked, alignable, decided):
    plan = Plan(**asked).for_model(alignable=alignable)
    assert (plan.polarity, plan.shift, plan.refit) == decided


@pytest.mark.parametrize("balance", [0, -0.2, 1.1, math.nan, True, "0.2"])
def test_a_balance_that_cannot_be(balance):
    with pytest.raises(ValueError, match=r"balance must be in \(0, 1\] \(small is close to softmax, which is polarity 0; .*\), but is"):
        Plan(calibrate=True, balance=balance)


@pytest.mark.parametrize("steps", [-1, 1.5, True, "60"])
def test_steps_that_cannot_be(steps):
    with pytest.raises(ValueError, match="transfer_steps must be 0 or a whole number above, such as 60, but is"):
        Plan(calibrate=True, transfer_steps=steps)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"balance": 0.5}, r"balance 0\.5 is what calibrate=inputs would aim at, but there are none"),
        ({"refit": True}, "a refit of output projections needs inputs of the model, but there are none; pass calibrate="),
        ({"transfer_steps": 60}, "attention transfer for 60 steps needs inputs of the model, but there are none; pass calibrate="),
        ({"refit": "yes"}, "refit must be True, False or None, but is 'yes'"),
        ({"calibrate": True, "polarity": "learned"}, "a learned polarity starts close to softmax, so there is nothing to calibrate; pass"),
        (
            {"calibrate": True, "polarity": 0.0, "refit": True},
            "polarity 0 is softmax, so there is nothing to refit; pass a",
        ),
        ({"calibrate": True, "polarity": 0, "transfer_steps": 9}, "polarity 0 is softmax, so there is nothing to transfer attention to"),
    ],
)
def test_what_does_not_go_together(asked, said):
    with pytest.raises(ValueError, match=said):
        Plan(**asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"polarity": 0.0}, r"polarity 0 is softmax, so there is nothing to calibrate; pass a polarity such as 0\.2"),
        ({"polarity": 0.3, "balance": 0.4}, r"polarity and balance are one number, but are 0\.3 and 0\.4; pass one of them"),
        ({"refit": False}, "a balanced shift balances every row by itself, so there is nothing to calibrate but output projections"),
    ],
)
def test_what_does_not_go_together_with_a_balanced_shift(asked, said):
    for plan, alignable in ((Plan(calibrate=True, **asked), False), (Plan(calibrate=True, shift="balanced", **asked), True)):
        with pytest.raises(ValueError, match=said):
            plan.for_model(alignable=alignable)
