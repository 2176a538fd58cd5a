"""Fixtures of tiny runs."""

from tiny_runs import launched, tiny_flags, train, variant  # noqa: F401
