"""What every recipe that is run with `python -m` has in common: its parser, and how it ends."""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec

from hf_tanhmax.errors import Interrupted, RecipeError

P = ParamSpec("P")


class Parser(argparse.ArgumentParser):
    """Its help keeps the line breaks of the description, which is the docstring of a module."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})


def exit_codes(*errors: type[Exception], resumable: bool = False) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Make a `main` end with 2 and one line if it was given what cannot work; with 130 if it was stopped and can go on.

    Args:
        *errors: what says so, beside `RecipeError`.
        resumable: whether the same command goes on where this one was stopped; if not, Python ends a program that is stopped.
    """
    given: tuple[type[Exception], ...] = (RecipeError, *errors)
    stops: tuple[type[BaseException], ...] = (Interrupted, KeyboardInterrupt) if resumable else (Interrupted,)

    def wrapped(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def ending(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except given as error:
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
                return 2
            except stops:
                print("stopped: what is finished is kept; the same command goes on from there", file=sys.stderr)
                return 130

        return ending

    return wrapped
