"""What is known of values before code runs: their tags through softmax, products and sums, what names mean, and a function's own source."""

import ast
import functools
import importlib

import pytest
import torch
from torch import nn

from hf_tanhmax.integration.detection import dataflow
from hf_tanhmax.integration.detection.attention_facts import attention_facts
from hf_tanhmax.integration.detection.dataflow import (
    ANYTHING,
    CHOSEN,
    INPUT,
    LOG,
    SCORES,
    SELF,
    WEIGHED,
    WEIGHTS,
    Findings,
    Instance,
    Method,
    Value,
)

GIVEN, PARAMETER = Value(frozenset({INPUT})), Value()

# Tags


def test_attention_is_a_softmax_of_scores_times_an_input():
    found = Findings()
    scores = found.product([GIVEN, GIVEN])
    assert scores.tags == {INPUT, SCORES}
    weights = found.softmax(scores)
    assert weights.tags == {INPUT, SCORES, WEIGHTS}
    assert (found.maps, found.attends) == (True, False)
    assert found.product([weights, GIVEN]).tags == {INPUT, SCORES}
    assert found.attends


def test_a_softmax_of_parameters_gives_no_weights():
    found = Findings()
    assert found.softmax(PARAMETER).tags == frozenset()
    found.product([found.softmax(PARAMETER), GIVEN])
    assert found == Findings()


def test_what_was_chosen_routes_and_weighs_nothing():
    found = Findings()
    chosen = found.result_of(ANYTHING, "topk", [GIVEN])
    assert chosen.tags == {INPUT, CHOSEN}
    assert WEIGHTS not in found.softmax(chosen).tags
    assert found.result_of(ANYTHING, "topk", [found.softmax(GIVEN)]).tags == {INPUT, CHOSEN}


def test_pooling_is_a_sum_of_what_is_weighed():
    found = Findings()
    weighed = found.weighed([found.softmax(GIVEN), GIVEN])
    assert WEIGHED in weighed.tags
    assert not found.pools
    found.result_of(ANYTHING, "sum", [weighed])
    assert (found.pools, found.attends) == (True, False)


def test_a_log_softmax_is_weights_once_it_is_raised():
    found = Findings()
    logs = found.result_of(ANYTHING, "log_softmax", [GIVEN])
    assert logs.tags == {LOG}
    assert not found.normalises
    assert WEIGHTS in found.result_of(ANYTHING, "exp", [logs]).tags


@pytest.mark.parametrize("name", ["shape", "argmax", "nonzero"])
def test_shapes_and_indices_are_no_input(name):
    assert Findings().result_of(ANYTHING, name, [GIVEN]) == Value()


# Values and names


def test_joined_keeps_every_option_and_tag():
    both = dataflow.union([Value(frozenset({INPUT}), (None,)), Value(frozenset({SCORES}), (3,))])
    assert both == Value(frozenset({INPUT, SCORES}), (None, 3))
    assert dataflow.union([GIVEN]) is GIVEN
    pair = Value(items=(GIVEN, PARAMETER))
    assert dataflow.union([pair, Value(items=(PARAMETER, PARAMETER))]).items == (GIVEN, PARAMETER)
    assert dataflow.union([pair, GIVEN]).items == ()


@pytest.mark.parametrize(
    ("options", "truth"), [((None,), False), ((0, ""), False), ((3,), True), ((print,), True), ((ANYTHING,), None), ((None, 3), None)]
)
def test_truth_is_known_where_all_options_agree(options, truth):
    assert dataflow.truth_of(Value(options=options)) is truth


def test_a_call_fills_its_parameters():
    arguments = ast.parse("def call(self, x, mask=None, *rest, scale=1, **others): ...").body[0].args
    found = dataflow.bind_arguments(arguments, [PARAMETER, GIVEN, PARAMETER, GIVEN], {"label": GIVEN}, {"mask": None, "scale": 1})
    assert found == {
        "self": PARAMETER,
        "x": GIVEN,
        "mask": PARAMETER,
        "scale": Value(options=(1,)),
        "rest": Value(GIVEN.tags, items=(GIVEN,)),
        "others": GIVEN,
    }
    anything = dataflow.bind_arguments(arguments, [], {"**": GIVEN}, {"mask": None, "scale": 1})
    assert anything["x"] == anything["scale"] == GIVEN
    assert anything["mask"] == PARAMETER  # a mask is no input, wherever it comes from


def test_a_bound_function_is_taken_without_its_object():
    module = nn.Linear(2, 2)
    assert dataflow.unbound(module.forward) == Method(SELF, nn.Linear.forward)
    assert dataflow.unbound(functools.partial(module.forward, 3)) == Method(SELF, nn.Linear.forward)
    assert dataflow.unbound(torch.softmax) is torch.softmax


class Parent(nn.Module):
    label, hidden = "eager", {}

    def forward(self, x):
        return x

    @property
    def scale(self):
        return 3

    @staticmethod
    def helper(x):
        return x


def test_an_attribute_is_found_in_the_first_class_that_has_it():
    owner = Instance(Parent)

    def found(name):
        return dataflow.attribute_in(Parent.__mro__, owner, name)

    assert found("label") == "eager"
    assert found("forward") == Method(owner, Parent.forward)
    assert found("helper") is Parent.helper
    assert found("hidden") is found("train") is found("missing") is ANYTHING
    assert dataflow.is_property(owner, "scale")
    assert not dataflow.is_property(owner, "forward")


def test_a_table_gives_its_entry_or_any_that_can_be_called():
    table = {"relu": torch.relu, "tanh": torch.tanh, "count": 3}
    assert dataflow.entries(table, "relu") == (torch.relu,)
    assert dataflow.entries(table, ANYTHING) == (torch.relu, torch.tanh)
    assert dataflow.entries({}, ANYTHING) == (ANYTHING,)


def test_names_of_a_function_hold_those_of_inner_ones():
    def outer(x):
        return [torch.relu(each) @ x for each in sorted(x, key=len)]

    names, others = dataflow.names_of(outer.__code__)
    assert {"torch", "relu", "sorted", "len"} <= set(names)
    assert {"key", "@"} <= set(others)


# Source

EDITED = """import torch
from torch import nn


class Plain(nn.Module):
    def forward(self, x):
        return x


class Attending(nn.Module):
    def forward(self, x):
        return torch.softmax(x @ x.mT, -1) @ x
"""


@pytest.mark.parametrize("above", [0, 4, 5])  # with 5, a class's own line holds another's forward
def test_a_file_that_was_edited_after_its_import(tmp_path, monkeypatch, above):
    name = f"edited_{above}"
    path = tmp_path / f"{name}.py"
    path.write_text(EDITED)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(name)
    path.write_text("\n" * above + EDITED)
    assert attention_facts(module.Attending()).bypasses
    assert not attention_facts(module.Plain()).bypasses


def every_kind_of_function(x, *, count=2):
    """Two lines,
    the second of them indented."""
    total = 0

    def add(value):
        nonlocal total
        total += value
        return lambda: [total for _ in range(count)]

    return add(x), {each: f"{each}" for each in range(3)}


class Private(nn.Module):
    @staticmethod
    def __kept(x):
        return x

    def forward(self, x, *, of: "int" = 3):
        return super().__call__(self.__kept(x)), __class__


def decorator(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("function", [every_kind_of_function, Private.forward, decorator(every_kind_of_function)])
def test_a_function_fits_its_own_source(function):
    assert dataflow.tree_of(function.__code__) is not None
