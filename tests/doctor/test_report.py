"""Findings as lines of a terminal."""

from hf_tanhmax.doctor import Finding, errors_in, in_lines

FOUND = [Finding("ok", "config.json", "is fine"), Finding("warning", "x", "may surprise"), Finding("error", "model", "is broken")]


def test_errors():
    assert errors_in(FOUND) == FOUND[2:]
    assert errors_in(FOUND[:2]) == []


def test_lines_are_aligned_and_counted():
    assert in_lines(FOUND).splitlines() == [
        "ok       config.json  is fine",
        "warning  x            may surprise",
        "error    model        is broken",
        "",
        "1 error, 1 warning",
    ]
    assert in_lines([]) == "\nno errors, no warnings"
    assert in_lines(FOUND[2:] * 2).endswith("2 errors, no warnings")
