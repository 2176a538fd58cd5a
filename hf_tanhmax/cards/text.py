"""Markdown escaping for text that others wrote, such as class names and paths."""

import re

# Characters that begin something in Markdown, wherever in a line they stand.
SPECIAL = re.compile(r"([\\`*_\[\]<>|~&$!#])")


def escaped(text: object) -> str:
    """Any text as one line of Markdown that shows exactly it, outside code."""
    return SPECIAL.sub(r"\\\1", _line(text))


def code(text: object) -> str:
    """Any text as one line of Markdown code, which shows exactly it, outside tables."""
    line = _line(text)
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence, space = "`" * (longest + 1), " " if line[:1] == "`" or line[-1:] == "`" else ""
    return f"{fence}{space}{line}{space}{fence}"


def _line(text: object) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
