"""Text of others in Markdown: a renderer shows exactly it, whatever it holds."""

import html
import re

import pytest
from markdown_it import MarkdownIt

from hf_tanhmax.cards.text import code, escaped

NASTY = [
    "plain",
    "two\nlines\r\nand a tab\t.",
    "# no heading",
    "*not* _emphasis_ ~~nor~~ this",
    "`code` and ``more``",
    "[no](http://link) ![nor](image.png)",
    "<script>alert(1)</script> &amp; <!-- comment -->",
    "a | table | cell",
    "---\nlicense: mit\n---",
    "\\*already escaped\\*",
    "{{ jinja }} {% raw %}",
    "$math$ and ]]>",
    "umlauts äöü, 漢字, 🙂",
    "\x00\x1b[31mcontrol\u202e",
    "`",
    "",
]


def shown(markdown):
    """What a reader sees of one paragraph."""
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(f"before {markdown} after")
    return html.unescape(re.sub(r"</?(p|code)>", "", rendered)).strip().removeprefix("before ").removesuffix(" after")


def expected(text):
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("made_safe", [escaped, code])
def test_exactly_the_text_is_shown(text, made_safe):
    if text == "" and made_safe is code:
        return  # a code span cannot be empty, and nothing without a name is shown as code
    assert "\n" not in made_safe(text)
    assert shown(made_safe(text)) == expected(text)


def test_nothing_becomes_a_tag():
    rendered = MarkdownIt("commonmark").render(" ".join(made(text) for text in NASTY for made in (escaped, code)))
    assert set(re.findall(r"<(\w+)", rendered)) <= {"p", "code"}


def test_a_cell_stays_one_cell():
    rendered = MarkdownIt("commonmark").enable("table").render(f"| a | b |\n|---|---|\n| {escaped('x | y')} | z |\n")
    assert rendered.count("<td>") == 2


def test_what_is_no_text():
    assert escaped(3) == "3"
    assert code(None) == "`None`"
