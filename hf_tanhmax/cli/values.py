"""What the words of an option stand for; argparse says which option a word was given to that it cannot be."""

import argparse
import string

PATHS = frozenset(f"{string.ascii_letters}{string.digits}_.*?[]!")  # what paths of modules, and patterns of them, are written with


def polarity(text: str) -> float | str:
    """A number in [0, 1], or `"learned"`."""
    try:
        found = text if text == "learned" else float(text)
    except ValueError:
        found = -1.0
    if found == "learned" or 0 <= float(found) <= 1:
        return found
    raise argparse.ArgumentTypeError(f'must be a number in [0, 1] or "learned", but is {text!r}')


def balance(text: str) -> float:
    """A number in (0, 1]."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if 0 < found <= 1:
        return found
    raise argparse.ArgumentTypeError(f"must be a number in (0, 1], but is {text!r}")


def indices(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between them, such as 0,1, but is {text!r}") from None


def layers(text: str) -> list[int | str]:
    """Numbers of layers, and parts of paths of modules, with commas between them."""
    return [int(part) if part.isdecimal() else part for part in parts(text)]


def parts(text: str) -> list[str]:
    """Names of classes, or parts of paths of modules, with commas between them."""
    found = [part.strip() for part in text.split(",")]
    if not all(part and set(part) <= PATHS for part in found):
        raise argparse.ArgumentTypeError(f"must be numbers or names with commas between them, such as 0,1 or vision_model, but is {text!r}")
    return found


def count(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, but is {text!r}")
    return int(text)


def rows(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be 0 or more, but is {text!r}")
    return int(text)


def port(text: str) -> int:
    """A port of TCP that a user may take; 0 is one that is free."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, which is any free port, to 65535, but is {text!r}")
    return int(text)


def names(text: str) -> list[str]:
    """Names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]
