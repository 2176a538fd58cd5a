"""One stand-alone HTML page of explanations, which needs no network.

The page holds its own style and script, named by their hashes in a Content-Security-Policy that allows nothing else, and its data as JSON
and as base64; texts of users are data, never markup. Matrices are decoded when they are first shown.

Size: a matrix takes about 2.3 bytes per number (float16, relative error at most 2^-11), half of that under a causal mask. 12
heads in each of 12 layers over 512 tokens are 38 million weights, so about 85 MB, and as many contributions would double that. Those are
weights times values times gradients, which an explanation does not hold; so beyond 48 MiB of matrices a page keeps only the contributions
of the position that the logit is read from (their sum over queries, where the model pools all), says so, and keeps the whole if asked.
"""

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

from ..attribution.explanation import Explanation
from .labels import model_label, printable
from .page_data import blocks, facts, keep_all_contributions, shared_facts

# In this order, as one script.
SCRIPTS = ("base", "colour", "blocks", "evidence", "picture", "heads", "matrix", "rows", "save", "page")


def to_html(explanations: Explanation | Sequence[Explanation], *, contributions: str = "auto") -> str:
    """The page as a string, for example for an `iframe` in a notebook.

    Args:
        explanations: one, or several that the reader chooses from.
        contributions: "all" keeps contributions of every query; "row" those of the position that the logit is read from; "auto" keeps all
            as long as weights and contributions together take at most 48 MiB.

    Raises:
        ValueError: there is no explanation, a number is not finite, or `contributions` is none of the three.
    """
    return _template().render(_context(explanations, contributions))


def save_page(explanations: Explanation | Sequence[Explanation], path: str | os.PathLike[str], *, contributions: str = "auto") -> Path:
    """Write the page to a file, head by head; returns its path.

    Args:
        explanations: as of `to_html`.
        path: of the file, which is replaced if it is there.
        contributions: as of `to_html`.

    Raises:
        ValueError: as `to_html` does.
        OSError: the file cannot be written.
    """
    context = _context(explanations, contributions)
    with Path(path).open("wb") as file:
        _template().stream(context).dump(file, encoding="utf-8")
    return Path(path)


def _context(explanations: Explanation | Sequence[Explanation], contributions: str) -> dict[str, object]:
    """What the template is rendered with."""
    shown = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    if not shown:
        raise ValueError("there is no explanation to show; explain makes one")
    whole = keep_all_contributions(shown, contributions)
    all_facts = [facts(explanation, whole=whole) for explanation in shown]
    script, style = _script(), _asset("page.css")
    return {
        "title": " · ".join(filter(None, (model_label(shown[0]), f"what speaks for “{printable(shown[0].target_name)}”"))),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "blocks": _blocks(shown, all_facts, whole=whole),
        "data": {**shared_facts(), "follows": _are_consecutive(shown), "explanations": all_facts},
    }


def _are_consecutive(explanations: Sequence[Explanation]) -> bool:
    """Whether they explain tokens that were written one after the other."""
    return len(explanations) > 1 and all(
        after.tokens[: len(before.tokens)] == before.tokens and len(after.tokens) == len(before.tokens) + 1
        for before, after in pairwise(explanations)
    )


def _blocks(explanations: Sequence[Explanation], all_facts: Sequence[dict[str, object]], *, whole: bool) -> Iterator[tuple[str, str]]:
    """Names and texts of all blocks; their scales are written into the facts of each explanation, which the page holds after them."""
    for index, (explanation, facts_of_one) in enumerate(zip(explanations, all_facts, strict=True)):
        layers, heads = explanation.weights.shape[:2]
        scales = {kind: [[1.0] * heads for _ in range(layers)] for kind in ("weights", "contributions")}
        facts_of_one["scales"] = scales
        for kind, layer, head, scale, text in blocks(explanation, whole=whole):
            scales[kind][layer][head] = scale
            yield f"{kind}-{index}-{layer}-{head}", text


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.from_string(_asset("page.html"))


@cache
def _script() -> str:
    return "\n".join(_asset(f"{name}.js") for name in SCRIPTS)


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The name of an inline script or style in a Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
