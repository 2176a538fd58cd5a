"""Statement by statement: what a forward method is read to do, for pieces of code that each hold one kind of statement."""

import pytest
import torch
import transformers
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_tanhmax.integration.detection.dataflow import INPUT, SELF, WEIGHTS, Instance, Method
from hf_tanhmax.integration.detection.forward_source import Reading

LABELS = ("tanhmax",)


class Module(nn.Module):
    """The owner of every function below; none of them is run."""

    config: transformers.PretrainedConfig
    switch = None


def read(function):
    reading = Reading(Instance(Module), LABELS)
    return reading.follow(Method(SELF, function)), reading.found


def attend(x):
    return torch.softmax(x @ x.mT, -1) @ x


def for_another_name(self, x):
    if self.config._attn_implementation == "eager":
        return attend(x)
    return x


def for_what_is_none(self, x):
    return x if self.switch is None else attend(x)


def after_a_return(self, x):
    return x
    return attend(x)


def after_a_try_that_always_returns(self, x):
    try:
        return x
    except ValueError:
        return x
    return attend(x)


def never_called(self, x):
    def inner():
        return attend(x)

    return x


@pytest.mark.parametrize("function", [for_another_name, for_what_is_none, after_a_return, after_a_try_that_always_returns, never_called])
def test_what_is_never_reached_is_not_followed(function):
    assert not read(function)[1].attends


def in_a_branch(self, x, flag):
    return attend(x) if flag else x


def in_the_second_turn(self, x):
    weights = x
    for _ in range(2):
        x, weights = weights @ x, torch.softmax(x @ x.mT, -1)
    return x


def in_a_handler(self, x):
    try:
        return x
    except ValueError:
        return attend(x)


def in_a_with(self, x):
    with torch.no_grad() as _:
        return attend(x)


def in_a_comprehension(self, x):
    return [attend(each) for each in x]


def through_a_tuple(self, x):
    first, (second, *_) = x, (torch.softmax(x @ x.mT, -1), 3)
    return second @ first


def through_an_attribute(self, x):
    self.kept = torch.softmax(x @ x.mT, -1)
    return self.kept @ x


def in_a_match(self, x, mode):
    match mode:
        case 1:
            return attend(x)
        case _:
            return x


def at_the_end_of_recursion(self, x, depth=3):
    return at_the_end_of_recursion(self, x, depth - 1) if depth else attend(x)


REACHED = [
    in_a_branch,
    in_the_second_turn,
    in_a_handler,
    in_a_with,
    in_a_comprehension,
    through_a_tuple,
    through_an_attribute,
    in_a_match,
    at_the_end_of_recursion,
]


@pytest.mark.parametrize("function", REACHED)
def test_what_may_be_reached_is_followed(function):
    assert read(function)[1].attends


def asking(self, x, sinks=None):
    interface = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, attend)
    return interface(self, x, x, x, None, scaling=0.5, sinks=sinks, cache=None)


def asking_for_sdpa(self, x):
    return ALL_ATTENTION_FUNCTIONS["sdpa"](self, x, x, x, None)


def test_the_interface_is_asked_and_what_it_is_handed_is_told():
    value, found = read(asking)
    assert value.tags == {INPUT}
    assert (found.asks, found.attends) == (True, False)
    assert found.passes == {"scaling", "sinks"}


def test_another_name_than_the_configs_is_softmax():
    found = read(asking_for_sdpa)[1]
    assert (found.asks, found.attends) == (False, True)


def softmax_of(self, x):
    return torch.softmax(x, -1)


def test_what_a_function_gives():
    assert read(softmax_of)[0].tags == {INPUT, WEIGHTS}
