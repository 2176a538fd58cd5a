"""Packages that not everybody needs, imported when they are, with a sentence where they are missing."""

from importlib import import_module
from typing import Any


def wanted(module: str, purpose: str) -> Any:
    """A module of a package that comes with the extra `interpret`.

    Args:
        module: dotted name.
        purpose: what needs it, in the plural, to begin the sentence with.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f'{purpose} need {module.split(".")[0]}, which is not installed: pip install "hf-tanhmax[interpret]"') from error
