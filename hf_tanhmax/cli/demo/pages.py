"""The pages of the demo, each with the Content-Security-Policy that it is sent with: nothing from elsewhere, and nothing to elsewhere."""

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined, Template

# Beside what the page of an explanation allows itself: only the demo may frame it, and it is no origin that could ask the demo anything.
IN_FRAME = "frame-ancestors 'self'; sandbox allow-scripts allow-downloads"


class Page(NamedTuple):
    """A page as a string, and its policy."""

    html: str
    policy: str


def form_page(**values: object) -> Page:
    """The form; its template names the values."""
    style, script = _asset("demo.css"), _asset("demo.js")
    html = _template("demo.html").render(style=style, script=script, **values)
    allowed = f"style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; frame-src 'self'; form-action 'self'"
    return Page(html, f"default-src 'none'; {allowed}; base-uri 'none'; frame-ancestors 'none'")


def sentence_page(sentence: str) -> Page:
    """One sentence in the place of an answer."""
    style = _asset("demo.css")
    html = _template("sentence.html").render(style=style, sentence=sentence[:1].upper() + sentence[1:])
    return Page(html, f"default-src 'none'; style-src '{_hash(style)}'; img-src data:; base-uri 'none'; form-action 'none'; {IN_FRAME}")


@cache
def _template(name: str) -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset(name))


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The name of an inline script or style in a policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
