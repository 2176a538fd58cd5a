"""The findings of a check, and how a list of them is printed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        level: `"error"` where something will not work or is not safe to publish, `"warning"` where it may surprise.
        subject: the file, package or device it is about.
        sentence: what was found and, unless all is well, what to do.
    """

    level: Level
    subject: str
    sentence: str


def errors_in(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that are errors."""
    return [finding for finding in findings if finding.level == "error"]


def in_lines(findings: Iterable[Finding]) -> str:
    """One line per finding, in aligned columns, and a last line that counts them."""
    found = list(findings)
    width = max((len(finding.subject) for finding in found), default=0)
    lines = [f"{finding.level:7}  {finding.subject:{width}}  {finding.sentence}" for finding in found]
    counts = {level: sum(finding.level == level for finding in found) for level in ("error", "warning")}
    return "\n".join([*lines, "", f"{_counted(counts['error'], 'error')}, {_counted(counts['warning'], 'warning')}"])


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
