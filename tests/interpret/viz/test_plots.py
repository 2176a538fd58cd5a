"""Figures show the numbers of the tensors in the right colours, name their target, and leave nothing behind in matplotlib."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from made_explanations import TOKENS, made, made_of_image
from matplotlib import rc_context
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from hf_tanhmax.interpret.viz import plots
from hf_tanhmax.interpret.viz.colours import colour_map

STEPS = [made(target_name=name, seed=seed) for seed, name in enumerate((" Paris", ","))]
FIGURES = {
    "tokens": lambda: plots.plot_tokens(made()),
    "heads": lambda: plots.plot_heads(made()),
    "head": lambda: plots.plot_head(made(), layer=0, head=2),
    "image": lambda: plots.plot_image(made_of_image()),
    "next tokens": lambda: plots.plot_next_tokens(STEPS),
}


def axes_of(figure):
    return figure.axes[0]


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def shown(figure):
    """The array of the first axes' image, and its limits."""
    (image,) = axes_of(figure).images
    return image.get_array(), image.get_clim()


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_saved_names_its_target_and_has_a_symmetric_legend(name):
    figure = FIGURES[name]()
    words = " ".join(texts_of(figure))
    assert ("Paris" if name == "next tokens" else "flower" if name == "image" else "positive") in words
    bar = figure.axes[-1]
    low, high = bar.get_ylim() if bar.get_ylabel() else bar.get_xlim()
    assert low == -high < 0
    raster, vector = io.BytesIO(), io.BytesIO()
    figure.savefig(raster, format="png", dpi=50)
    figure.savefig(vector, format="svg")
    assert np.asarray(Image.open(raster).convert("RGB")).std() > 5
    assert ElementTree.fromstring(vector.getvalue()).tag.endswith("svg")


def test_pyplot_knows_of_nothing():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    plots.plot_heads(made())
    assert pyplot.get_fignums() == before


def test_colours_of_words_are_their_scores():
    scores = {"mine": torch.tensor([9.0, 1.0, -0.25, -0.25, 0.0, 0.5, 9.0])}  # special tokens have no part in words
    axes = axes_of(plots.plot_tokens(made(scores=scores), scores="mine"))
    boxes = [patch.get_facecolor() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert boxes == [colour_map()((value + 1) / 2) for value in (1.0, -0.5, 0.0, 0.5)]
    assert boxes[2][:3] == (1, 1, 1)
    assert [text.get_text() for text in axes.texts] == ["not", "funny", "at", "$all_"]
    tokens = axes_of(plots.plot_tokens(made(scores=scores), scores="mine", by="tokens"))
    assert [text.get_text() for text in tokens.texts] == list(TOKENS)


def test_what_hardly_moves_the_output_is_pale():
    """Scores in logits have full colour from half a logit on, so that noise is not drawn as vividly as evidence."""
    noise = {"contributions": torch.tensor([0.0, 0.05, 0.0, 0.0, -0.05, 0.0, 0.0])}
    figure = plots.plot_tokens(made(scores=noise))
    boxes = [patch.get_facecolor() for patch in axes_of(figure).patches if isinstance(patch, FancyBboxPatch)]
    assert boxes == [colour_map()((value + 1) / 2) for value in (0.1, 0.0, -0.1, 0.0)]
    assert figure.axes[-1].get_xlim() == (-0.5, 0.5)
    assert plots.plot_tokens(made(scores={"weights": noise["contributions"]}), scores="weights").axes[-1].get_xlim() == (
        pytest.approx(-0.05),
        pytest.approx(0.05),
    )


def test_a_text_of_unknown_words_is_pale_and_says_so():
    scores = {"contributions": torch.tensor([0.0, 2.0, 0.0, 0.0, -1.0, 0.0, 0.0])}
    figure = plots.plot_tokens(made(scores=scores, unknown=(1, 2, 3, 4, 5)))
    assert figure.axes[-1].get_xlim() == (-8, 8)
    assert "the model knows none of these words" in " ".join(texts_of(figure))
    largest = made().weights[0, 2].abs().max()
    assert shown(plots.plot_head(made(unknown=(1, 2, 3, 4, 5)), layer=0, head=2, view="raw"))[1] == (-4 * largest, 4 * largest)
    half_known = plots.plot_tokens(made(scores=scores, unknown=(1, 2, 3)))
    assert half_known.axes[-1].get_xlim() == (-2, 2)
    assert "none of these words" not in " ".join(texts_of(half_known))


def test_a_long_text_takes_more_lines():
    words = tuple(f"word{index}" for index in range(120))
    many = made(tokens=words, words=tuple(range(120)), word_texts=words)
    short, tall = plots.plot_tokens(made()), plots.plot_tokens(many, width=5)
    assert tall.get_figheight() > 2 * short.get_figheight()
    right = max(patch.get_x() + patch.get_width() for patch in axes_of(tall).patches)
    assert right <= axes_of(tall).get_xlim()[1]


@pytest.mark.parametrize("view", ["raw", "oriented", "contributions"])
def test_one_head_is_its_matrix(view):
    explanation = made()
    wanted = {"raw": explanation.weights, "oriented": explanation.oriented, "contributions": explanation.contributions}[view][0, 2]
    array, limits = shown(plots.plot_head(explanation, layer=0, head=2, view=view))
    np.testing.assert_array_equal(array, wanted.numpy())
    assert limits == (-wanted.abs().max(), wanted.abs().max())


def test_heads_are_marked():
    explanation = made()
    figure = plots.plot_heads(explanation, view="raw")
    array, _ = shown(figure)
    np.testing.assert_allclose(array, explanation.weights.sum(-1).mean(-1).numpy())
    assert [label.get_text() for label in axes_of(figure).get_yticklabels()] == ["0", "softmax 1"]
    assert len(axes_of(figure).lines) == int(explanation.one_signed.sum())


def test_zero_everywhere_is_white():
    flat = made(weights=torch.zeros(2, 3, 7, 7))
    array, limits = shown(plots.plot_head(flat, layer=0, head=0))
    assert limits == (-1, 1)
    assert not np.any(array)


@pytest.mark.parametrize("smooth", [True, False])
def test_patches_are_upsampled(smooth):
    scores = {"mine": torch.tensor([0.0, 1.0, 0.0, 0.0, -2.0, 0.0, 0.0])}
    explanation = made_of_image(rows=2, columns=3, size=(60, 40), scores=scores)
    covered = plots.plot_image(explanation, scores="mine", smooth=smooth).axes[1].images[1]
    array, alpha = np.asarray(covered.get_array()), np.asarray(covered.get_alpha())
    assert array.shape == (40, 60)
    assert array[2, 2] == pytest.approx(0.5)
    assert array[37, 2] == pytest.approx(-1)
    assert array[2, 57] == alpha[2, 57] == 0
    assert alpha[37, 2] == pytest.approx(0.85)
    assert (len(np.unique(array)) > 3) == smooth


def test_next_tokens_are_rows():
    first, second = made(tokens=TOKENS[:5], words=(None, 0, 1, 1, 2), target_name=" Paris"), made(target_name="\n", seed=1)
    figure = plots.plot_next_tokens([first, second], scores="rollout")
    array, _ = shown(figure)
    np.testing.assert_allclose(array[0, :5], first.scores["rollout"])
    assert array.mask[0, 5:].all()
    np.testing.assert_allclose(array[1], second.scores["rollout"])
    assert [label.get_text() for label in axes_of(figure).get_yticklabels()] == [" Paris  0.94", "↵  0.94"]
    assert shown(plots.plot_next_tokens(second))[0].shape == (1, 7)


def test_text_of_any_kind_stays_text():
    """Dollars and backslashes are no mathematics, whatever the settings; angle brackets do not break an SVG."""
    strange = ("$x^2$", "\\frac{", "a_b", "</text>", "日本", "مرحبا", "\U0001f600")
    explanation = made(tokens=strange, word_texts=strange, words=tuple(range(7)), target_name="$\\alpha")
    with rc_context({"text.parse_math": True, "svg.fonttype": "none"}):
        for figure in (plots.plot_tokens(explanation), plots.plot_head(explanation, layer=0, head=0)):
            vector = io.BytesIO()
            figure.savefig(vector, format="svg")
            words = "".join(ElementTree.fromstring(vector.getvalue()).itertext())
            assert all(token in words for token in strange[:4])
            assert "$\\alpha" in words


def test_text_has_contrast():
    def luminance(colour):
        return sum(weight * channel**2.2 for weight, channel in zip((0.2126, 0.7152, 0.0722), to_rgb(colour), strict=True))

    for strength in np.linspace(-1, 1, 41):
        pair = sorted([luminance(colour_map()((strength + 1) / 2)), luminance(plots._text_colour(strength))])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) > 4.3, strength  # the best that two inks can do is 4.35 on their darkest common ground


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"this explanation has no image; plot_tokens shows one of a text"):
        plots.plot_image(made())
    with pytest.raises(ValueError, match=r"strength must be from 0 to 1, but is 2"):
        plots.plot_image(made_of_image(), strength=2)
    with pytest.raises(ValueError, match=r'there are no words to show; by="tokens" shows the special tokens too'):
        plots.plot_tokens(made(word_texts=(), words=(None,) * 7))
    with pytest.raises(ValueError, match=r"there is no explanation to show; explain_generation makes one"):
        plots.plot_next_tokens([])
