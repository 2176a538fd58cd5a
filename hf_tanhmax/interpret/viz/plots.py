"""Figures of an explanation by matplotlib: tokens, heads, one head, an image, next tokens; and of rank collapse.

Every function returns a new figure, which pyplot does not know; `figure.savefig("name.svg")` writes it, as PNG, SVG or PDF. Blue
speaks for the target and orange against it (in raw weights: above and below zero), white is zero, and the range is symmetric. Tokens are
literal text, never mathematics; a letter that no installed font has is a box. Where scores are in logits, the range is half a logit or
more, so that what hardly moves the output is pale, and so is all that a model without a word to go by says.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import floor, log10
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import optional_package
from ..attribution.explanation import Explanation
from ..attribution.generation import GenerationExplanation
from ..attribution.rank_collapse import RankCollapse
from ..inputs.image_patches import upsampled
from .colours import colour_map
from .fonts import TextRenderer
from .labels import head_label, model_label, printable, score_label, target_label
from .views import FULL_COLOUR, VIEWS, colour_range, head_matrix, head_numbers, texts_and_scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DARK, WHITE = "#101216", "#ffffff"
LINE_HEIGHT, BOX_HEIGHT = 25.0, 20.0  # points from line to line of a text, and of a token's box
EQUAL_CONTRAST = 0.19  # the luminance on which dark and white text have the same contrast
MOST_LABELS = 64  # the names of more tokens along an axis could not be read
LINE_STYLES: tuple[dict[str, Any], ...] = (  # told apart by colour, marker and dash
    {"color": "#0f4a91", "marker": "o", "markersize": 4},
    {"color": "#d8792c", "marker": "s", "markersize": 4, "linestyle": "--"},
    {"color": "#4388cf", "marker": "^", "markersize": 4, "linestyle": "-."},
    {"color": "#8d3f04", "marker": "D", "markersize": 3.5, "linestyle": ":"},
)
FOR_AND_AGAINST = "blue speaks for the target, orange against it"


def plot_tokens(explanation: Explanation, *, scores: str = "contributions", by: str = "words", width: float = 8.0) -> "Figure":
    """The text, the background of each word or token in the colour of its score.

    Args:
        explanation: of a text.
        scores: the name of the scores.
        by: "words", or "tokens" with the special ones.
        width: in inches; the height follows from the text.

    Raises:
        ValueError: there are no scores of that name, no such unit, or no token.
    """
    texts, values = texts_and_scores(explanation, scores, by)
    if not texts:
        raise ValueError(f'there are no {by} to show; by="tokens" shows the special tokens too')
    renderer, text_width = TextRenderer(), 72 * width - 24
    lines = renderer.wrap(texts, width=text_width, gap=4, padding=8)
    figure = _figure(width, 1.15 + len(lines) * LINE_HEIGHT / 72)
    axes = figure.subplots()
    axes.set(xlim=(0, text_width), ylim=(LINE_HEIGHT * len(lines), 0))
    axes.axis("off")
    high = colour_range(explanation, _largest(torch.tensor(values)), scores, "word")
    for row, line in enumerate(lines):
        for index, left, box_width in line:
            _token_box(axes, (left, LINE_HEIGHT * row, box_width), values[index] / high)
            centre = (left + box_width / 2, LINE_HEIGHT * row + BOX_HEIGHT / 2)
            text, colour = renderer.with_boxes(texts[index]), _text_colour(values[index] / high)
            axes.text(*centre, text, color=colour, ha="center", va="center", **renderer.style)
    unread = ": the model knows none of these words" if explanation.knows_no_word else ""
    renderer.title(axes, f"{_title(scores)} for {target_label(explanation)}{unread}")
    _legend(figure, axes, high, f"score ({FOR_AND_AGAINST})", below=True)
    return figure


def plot_heads(explanation: Explanation, *, view: str = "oriented") -> "Figure":
    """One signed number per layer and head.

    It is the mean over queries of the sum of weights, or for "contributions" the sum over all positions in logits. Softmax layers are
    named, and a dot marks a head whose weights have one sign.

    Args:
        explanation: of anything.
        view: "raw", "oriented" or "contributions".

    Raises:
        ValueError: there is no such view.
    """
    numbers = head_numbers(explanation, view)
    layers, heads = numbers.shape
    figure = _figure(2.8 + 0.42 * heads, 1.5 + 0.32 * layers)
    axes = figure.subplots()
    high = colour_range(explanation, _largest(numbers), view, "head")
    _draw_matrix(axes, numbers, high)
    digits = max(0, 1 - floor(log10(high)))
    for layer, head in torch.cartesian_prod(torch.arange(layers), torch.arange(heads)).tolist():
        value = float(numbers[layer, head])
        axes.text(head, layer, f"{value:.{digits}f}", ha="center", va="center", fontsize=6, color=_text_colour(value / high))
        if explanation.one_signed[layer, head]:
            axes.plot(head + 0.38, layer - 0.36, "o", color=_text_colour(value / high), markersize=2)
    names = [f"{index}" if signed else f"softmax {index}" for index, signed in zip(explanation.layers, explanation.signed, strict=True)]
    axes.set_yticks(range(layers), names, fontsize=8)
    axes.set_xticks(range(heads), [str(head) for head in range(heads)], fontsize=8)
    _name_axes(axes, "head (a dot: weights of one sign)", "layer")
    unit = "sum of contributions (logits)" if view == "contributions" else f"sum of {VIEWS[view]}s, mean over queries"
    TextRenderer().title(axes, f"{_title(VIEWS[view])} of every head\n{target_label(explanation)}")
    _legend(figure, axes, high, unit)
    return figure


def plot_head(explanation: Explanation, *, layer: int, head: int, view: str = "oriented") -> "Figure":
    """One head as a matrix: a row is a query, a column a key.

    Args:
        explanation: that the head is from.
        layer: row of the explanation's tensors, which `explanation.layers` names.
        head: of that layer.
        view: "raw", "oriented" or "contributions".

    Raises:
        ValueError: there is no such layer, head or view.
    """
    matrix = head_matrix(explanation, layer, head, view)
    longest = max(matrix.shape)
    size = min(11.0, max(3.5, 0.19 * longest))
    figure = _figure(size + 2.4, size + 1.6)
    axes = figure.subplots()
    high = colour_range(explanation, _largest(matrix), view, "weight")
    _draw_matrix(axes, matrix, high)
    renderer = TextRenderer()
    if longest <= MOST_LABELS:
        tokens = [printable(token) for token in explanation.tokens]
        renderer.ticks(axes.xaxis, tokens, rotation=90)
        renderer.ticks(axes.yaxis, tokens[-matrix.shape[0] :])
    _name_axes(axes, "key (what is looked at)", "query (what looks)")
    renderer.title(axes, f"{_title(VIEWS[view])}, {head_label(explanation, layer, head)}\n{target_label(explanation)}")
    _legend(figure, axes, high, VIEWS[view])
    return figure


def plot_image(explanation: Explanation, *, scores: str = "contributions", smooth: bool = True, strength: float = 0.85) -> "Figure":
    """The image, and beside it the same in grey under the scores of its patches, up-sampled to pixels.

    Args:
        explanation: of an image.
        scores: the name of the scores.
        smooth: bilinear between patches; False shows each patch as a block.
        strength: opacity of the strongest score, from 0 to 1; a score of zero leaves the grey as it is.

    Raises:
        ValueError: the explanation has no image, no scores of that name, or the strength is out of range.
    """
    image, grid = explanation.image, explanation.grid
    if image is None or grid is None:
        raise ValueError("this explanation has no image; plot_tokens shows one of a text")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be from 0 to 1, but is {strength}")
    patches = explanation.by_word(scores).reshape(grid)
    high = colour_range(explanation, _largest(patches), scores, "patch")
    figure = _figure(9.0, min(9.0, 0.9 + 3.8 * image.height / image.width))
    original, overlaid = figure.subplots(1, 2)
    for axes, background in ((original, image), (overlaid, image.convert("L").convert("RGB"))):
        axes.imshow(background)
        axes.axis("off")
    pixels = upsampled(patches.flatten() / high, grid, (image.height, image.width), smooth=smooth)
    overlaid.imshow(pixels.numpy(), cmap=colour_map(), vmin=-1, vmax=1, alpha=(pixels.abs() * strength).numpy())
    renderer = TextRenderer()
    renderer.title(original, model_label(explanation) or "image")
    renderer.title(overlaid, f"{_title(scores)} for\n{target_label(explanation)}")
    _legend(figure, overlaid, high, "score of a patch")
    return figure


def plot_next_tokens(explanations: Explanation | Sequence[Explanation], *, scores: str = "contributions") -> "Figure":
    """The scores of each token that a causal model wrote: a row is a written token, a column a token before it.

    Args:
        explanations: of one next token, or of several that follow each other; the columns are the tokens of the last.
        scores: the name of the scores.

    Raises:
        ValueError: there is no explanation, or one has no scores of that name.
    """
    steps = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    if not steps:
        raise ValueError("there is no explanation to show; explain_generation makes one for each next token")
    tokens = max((step.tokens for step in steps), key=len)
    numbers = torch.full((len(steps), len(tokens)), torch.nan)
    for row, step in enumerate(steps):
        values = texts_and_scores(step, scores, "tokens")[1]
        numbers[row, : len(values)] = torch.tensor(values)
    high = colour_range(steps[-1], _largest(numbers.nan_to_num()), scores, "word")
    figure = _figure(min(22.0, max(5.0, 2.4 + 0.24 * len(tokens))), 2.2 + 0.26 * len(steps))
    axes = figure.subplots()
    _draw_matrix(axes, numbers, high)
    renderer = TextRenderer()
    renderer.ticks(axes.yaxis, [f"{printable(step.target_name)}  {step.probability:.2f}" for step in steps])
    renderer.ticks(axes.xaxis, [printable(token) for token in tokens], rotation=90)
    _name_axes(axes, "token before", "next token and its probability")
    renderer.title(axes, f"{_title(scores)} for " + (target_label(steps[0]) if len(steps) == 1 else "each next token"))
    _legend(figure, axes, high, "score")
    return figure


def plot_generation(found: GenerationExplanation) -> "Figure":
    """Every token that a causal model wrote by every token before it: a row is a written token, a column a token before it.

    Args:
        found: of one generation.
    """
    numbers = found.scores.clone()
    for place in range(len(numbers)):
        numbers[place, found.prompt + place :] = torch.nan
    high = max(_largest(found.scores), FULL_COLOUR["word"])
    figure = _figure(min(22.0, max(5.0, 2.4 + 0.24 * len(found.tokens))), 2.2 + 0.26 * len(numbers))
    axes = figure.subplots()
    _draw_matrix(axes, numbers, high)
    renderer = TextRenderer()
    rows = zip(found.written, found.probabilities.tolist(), strict=True)
    renderer.ticks(axes.yaxis, [f"{printable(token)}  {probability:.2f}" for token, probability in rows])
    renderer.ticks(axes.xaxis, [printable(token) for token in found.tokens], rotation=90)
    _name_axes(axes, "token before", "written token and its probability")
    renderer.title(axes, f"{_title(found.method)} for each written token")
    _legend(figure, axes, high, "score in logits")
    return figure


def plot_rank_collapse(found: Mapping[str, RankCollapse], *, title: str) -> "Figure":
    """How similar the tokens become, layer by layer: the norm of the residual over the whole norm.

    Args:
        found: measurements, by the name of their line.
        title: of the figure.

    Raises:
        ValueError: there is no measurement.
    """
    if not found:
        raise ValueError("there is no measurement to show; rank_collapse makes one")
    figure = _figure(6.4, 3.8)
    axes = figure.subplots()
    for (name, measurement), style in zip(found.items(), cycle(LINE_STYLES), strict=False):
        axes.plot(measurement.ratio.tolist(), label=name, **style)
    axes.set_ylim(bottom=0)
    axes.grid(color="#e3e5e8", linewidth=0.6)
    _name_axes(axes, "layer (0: the input of the first)", "norm of the residual / norm (0: all tokens are alike)")
    axes.legend(fontsize=8, frameon=False)
    TextRenderer().title(axes, title)
    return figure


def _figure(width: float, height: float) -> "Figure":
    module = optional_package("matplotlib.figure", "figures")
    return module.Figure(figsize=(width, height), layout="constrained", facecolor=WHITE)


def _largest(values: Tensor) -> float:
    """The largest absolute value, the end of the symmetric range; 1 where all are zero."""
    return float(values.abs().max()) or 1.0 if values.numel() else 1.0


def _draw_matrix(axes: "Axes", values: Tensor, high: float) -> None:
    axes.imshow(values.numpy(), cmap=colour_map(), vmin=-high, vmax=high, interpolation="nearest", aspect="equal")
    axes.tick_params(length=2)
    axes.spines[:].set_color("#c9ccd1")


def _name_axes(axes: "Axes", x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)


def _token_box(axes: "Axes", box: tuple[float, float, float], strength: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    left, top, width = box
    shape = "round,pad=0,rounding_size=3"
    axes.add_patch(
        FancyBboxPatch(
            (left, top), width, BOX_HEIGHT, boxstyle=shape, facecolor=colour_map()((strength + 1) / 2), edgecolor="#e3e5e8", lw=0.6
        )
    )


def _text_colour(strength: float) -> str:
    """Of text on the colour of a score: dark or white, whichever has more contrast."""
    red, green, blue, _ = colour_map()((strength + 1) / 2)
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    return DARK if luminance > EQUAL_CONTRAST else WHITE


def _title(name: str) -> str:
    words = score_label(name)
    return words[:1].upper() + words[1:]


def _legend(figure: "Figure", axes: "Axes", high: float, label: str, *, below: bool = False) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    position = {"location": "bottom", "shrink": 0.6, "aspect": 40, "pad": 0.02} if below else {"shrink": 0.9, "aspect": 24, "pad": 0.02}
    bar = figure.colorbar(ScalarMappable(Normalize(-high, high), colour_map()), ax=axes, **position)
    bar.set_ticks([-high, -high / 2, 0, high / 2, high], labels=[f"{value:.2g}" for value in (-high, -high / 2, 0, high / 2, high)])
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)
