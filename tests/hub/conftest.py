"""Fixtures of the tests of publishing."""

from publishable import adapter, checkpoint, run_folder  # noqa: F401
