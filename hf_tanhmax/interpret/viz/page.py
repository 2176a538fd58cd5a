"""One stand-alone HTML page of explanations, which needs no network.

The page holds its own style and script, named by their hashes in a Content-Security-Policy that allows nothing else, and its data as JSON
and as base64; texts of users are data, never markup. Matrices are decoded when they are first shown.

Size: a page takes at most 30 MB, which its matrices share. A matrix that fits is float16 (relative error at most 2^-11), about 2.3 bytes
per number, half of that under a causal mask; a larger one has as many levels as fit, and the page says by how much its numbers are rounded
(`packing`). 12 heads in each of 12 layers over 512 tokens are 38 million weights, so 0.8 bytes for each, and as many contributions would
halve that; so beyond 25 million numbers a page keeps only the contributions of the position that the logit is read from (their sum over
queries, where the model pools all), says so, and keeps the whole if asked. What does not fit with the coarsest levels makes a
page larger, and `save_page` warns of it.
"""

import base64
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined, Template

from ..attribution.explanation import Explanation
from ..attribution.generation import GenerationExplanation
from .arrangement import Arrangement, arrange
from .labels import model_label, printable
from .page_data import blocks, facts, generation_facts, keep_all_contributions, shared_facts, shown_matrices

# In this order, as one script.
SCRIPTS = ("base", "colour", "blocks", "evidence", "picture", "thumbnails", "heads", "matrix", "rows", "generation", "save", "page")
MEGABYTE = 1_000_000
LARGEST_PAGE = 30 * MEGABYTE
NAMED = 5  # of the texts of a page that is larger
PER_BLOCK = 120  # bytes of a matrix's element, scale, levels and error


def to_html(
    explanations: Explanation | Sequence[Explanation], *, contributions: str = "auto", generation: GenerationExplanation | None = None
) -> str:
    """The page as a string, for example for an `iframe` in a notebook.

    Args:
        explanations: one, or several that the reader chooses from: of several texts, and of several targets of one text. The twin of each,
            if it has one, is shown beside it.
        contributions: "all" keeps contributions of every query; "row" those of the position that the logit is read from; "auto" keeps all
            up to 25 million weights and contributions.
        generation: a whole generation, as `explain_whole_generation` explains it, which has a card of its own.

    Warns of a page that is larger than 30 MB, by how much each text is of it.

    Raises:
        ValueError: there is no explanation, a number is not finite, or `contributions` is none of the three.
    """
    page = _made(explanations, contributions, generation)
    text = _template().render(page.context)
    _warn_if_large(page, len(text.encode()))
    return text


def save_page(
    explanations: Explanation | Sequence[Explanation],
    path: str | os.PathLike[str],
    *,
    contributions: str = "auto",
    generation: GenerationExplanation | None = None,
) -> Path:
    """Write the page to a file, head by head; returns its path. Warns as `to_html` does.

    Args:
        explanations: as of `to_html`.
        path: of the file, which is replaced if it is there.
        contributions: as of `to_html`.
        generation: as of `to_html`.

    Raises:
        ValueError: as `to_html` does.
        OSError: the file cannot be written.
    """
    page = _made(explanations, contributions, generation)
    with Path(path).open("wb") as file:
        _template().stream(page.context).dump(file, encoding="utf-8")
    _warn_if_large(page, Path(path).stat().st_size)
    return Path(path)


class _Page(NamedTuple):
    """What the template is rendered with, and how many bytes the matrices of each explanation take, known when they are written."""

    context: dict[str, object]
    arrangement: Arrangement
    sizes: list[int]


def _warn_if_large(page: _Page, size: int) -> None:
    if size <= LARGEST_PAGE:
        return
    arrangement, parts = page.arrangement, {}
    for name, places in zip(arrangement.names, arrangement.texts, strict=True):
        twins = [twin for place in places if (twin := arrangement.twins[place]) is not None]
        parts[name] = sum(page.sizes[place] for place in (*places, *twins)) / MEGABYTE
    largest = sorted(parts, key=lambda name: -parts[name])
    told = ", ".join(f"{parts[name]:.1f} MB for “{name}”" for name in largest[:NAMED])
    warnings.warn(
        f"the page takes {size / MEGABYTE:.1f} MB, more than the {LARGEST_PAGE / MEGABYTE:g} MB that a browser shows well: {told}"
        f"{f' and {len(parts) - NAMED} more texts' if parts.keys() - largest[:NAMED] else ''}; explain fewer texts in one page, shorter "
        "ones (max_length) or fewer layers",
        UserWarning,
        stacklevel=3,
    )


def _made(explanations: Explanation | Sequence[Explanation], contributions: str, generation: GenerationExplanation | None) -> _Page:
    shown = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    if not shown:
        raise ValueError("there is no explanation to show; explain makes one")
    arrangement = arrange(shown)
    whole = keep_all_contributions(arrangement.shown, contributions)
    owners = {twin: place for place, twin in enumerate(arrangement.twins) if twin is not None}
    all_facts: list[dict[str, Any]] = []
    for place, explanation in enumerate(arrangement.shown):
        kinds = all_facts[owners[place]]["kinds"] if place in owners else None
        arranged: dict[str, Any] = {"weights_of": arrangement.weights_of[place], "twin": arrangement.twins[place], "packed": {}}
        all_facts.append({**facts(explanation, whole=whole, kinds=kinds), **arranged})
    script, style = _script(), _asset("page.css")
    data = {
        **shared_facts(),
        "follows": arrangement.follows,
        "texts": arrangement.texts,
        "text_names": arrangement.names,
        "explanations": all_facts,
        "generation": None if generation is None else generation_facts(generation),
    }
    spent = len(script) + len(style) + len(json.dumps(data))
    sizes = [0] * len(arrangement.shown)
    context: dict[str, object] = {
        "title": " · ".join(filter(None, (model_label(shown[0]), f"what speaks for “{printable(shown[0].target_name)}”"))),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "blocks": _blocks(arrangement, all_facts, sizes, whole=whole, left=LARGEST_PAGE - spent),
        "data": data,
    }
    return _Page(context, arrangement, sizes)


def _blocks(
    arrangement: Arrangement, all_facts: Sequence[dict[str, Any]], sizes: list[int], *, whole: bool, left: int
) -> Iterator[tuple[str, str]]:
    """Names and texts of all blocks; how each is packed is written into the facts of its explanation, which the page holds after them.

    Args:
        arrangement: of the page.
        all_facts: of each explanation.
        sizes: of each explanation, to which its blocks are added.
        whole: whether contributions of every query are held.
        left: bytes that they may take together.
    """
    held = []
    for place, explanation in enumerate(arrangement.shown):
        matrices = shown_matrices(explanation, whole=whole)
        if arrangement.weights_of[place] != place:
            del matrices["weights"]
        held += [(place, kind, of_kind) for kind, of_kind in matrices.items()]
    count = sum(of_kind.shape[0] * of_kind.shape[1] for _, _, of_kind in held)
    budget = (left - PER_BLOCK * count) / sum(of_kind.numel() for _, _, of_kind in held)
    for place, kind, of_kind in held:
        layers, heads = of_kind.shape[:2]
        told: list[list[list[float]]] = [[[]] * heads for _ in range(layers)]
        all_facts[place]["packed"][kind] = told
        for layer, head, packed in blocks(of_kind, budget=budget):
            told[layer][head] = [packed.scale, packed.levels, float(f"{packed.error:.3g}")]
            sizes[place] += len(packed.text) + PER_BLOCK
            yield f"{kind}-{place}-{layer}-{head}", packed.text


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
