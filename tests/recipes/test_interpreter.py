"""The corrections of Triton's interpreter last as long as their context, and may be nested."""

import os

import pytest

from recipes.interpreter import faithful

interpreter = pytest.importorskip("triton.runtime.interpreter", reason="needs triton")
CORRECTED = ("create_dot", "cast_impl", "create_descriptor_reduce")


def test_a_context_within_another_leaves_the_outer_one_as_it_was():
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("there is a GPU: nothing is corrected")
    with faithful():
        before = [getattr(interpreter.InterpreterBuilder, name) for name in CORRECTED]
        with faithful():
            assert interpreter.InterpreterBuilder.create_dot is not before[0]
        assert [getattr(interpreter.InterpreterBuilder, name) for name in CORRECTED] == before
