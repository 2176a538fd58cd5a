"""Errors for mistakes of the user and for missing packages, each with a message of one line."""

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType


class RecipeError(Exception):
    """Something in what the user gave that cannot work; the message is one sentence that says what, and it ends the program with 2."""


class Interrupted(Exception):  # noqa: N818, nothing went wrong
    """The user stopped the run, which saved a checkpoint; the message says how to go on, and it ends the program with 130."""


class HubError(Exception):
    """Something that prevents loading from or publishing to the Hub and that the user can correct, in one sentence."""


def one_line(error: BaseException, limit: int | None = None) -> str:
    """The text of an error without line breaks, as a part of another sentence; of an error without a text its type.

    Args:
        error: what was raised.
        limit: the most characters.
    """
    return " ".join(str(error).split())[:limit] or type(error).__name__


def first_cause(error: BaseException) -> BaseException:
    """What an error was raised from, at the beginning of the chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_line(error: BaseException) -> str:
    """The first line of an error whose others are a list of details; of an error without a text its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def some(names: Iterable[object], *, shown: int = 3) -> str:
    """The first of many names in their order, and how many more there are."""
    found = sorted(str(name) for name in names)
    return ", ".join(found[:shown]) + (f" and {len(found) - shown} more" if len(found) > shown else "")


def optional_package(module: str, purpose: str) -> ModuleType:
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
