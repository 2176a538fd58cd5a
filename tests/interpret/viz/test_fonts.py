"""Text in figures: lines are broken where they end, a letter no font has is a box, and fonts that are not installed are passed over."""

from itertools import pairwise

import pytest
from matplotlib.figure import Figure

from hf_tanhmax.interpret.viz.fonts import FAMILIES, MISSING, TextRenderer, families


def test_only_installed_families():
    from matplotlib.font_manager import fontManager

    assert families()[0] == "DejaVu Sans"
    assert set(families()) <= set(fontManager.get_font_names())


def test_letters_that_no_font_has():
    renderer = TextRenderer()
    assert renderer.with_boxes("fün $x_1$ − □\n") == "fün $x_1$ − □\n"
    assert renderer.with_boxes("a\U0010ffffb") == f"a{MISSING}b"
    assert renderer.with_boxes(MISSING) == MISSING


def test_lines():
    renderer = TextRenderer()
    texts = ["one", "two", "a very long word indeed", "three", "x"]
    lines = renderer.wrap(texts, width=80, gap=4, padding=8)
    assert [index for line in lines for index, _, _ in line] == [0, 1, 2, 3, 4]
    assert [[index for index, _, _ in line] for line in lines] == [[0, 1], [2], [3, 4]]
    for line in lines:
        assert line[0][1] == 0
        for (_, left, wide), (_, after, _) in pairwise(line):
            assert after == pytest.approx(left + wide + 4)
        assert len(line) == 1 or line[-1][1] + line[-1][2] <= 80
    assert renderer.width("wwww") > renderer.width("iiii")


def test_dollars_are_letters():
    axes = Figure().subplots()
    TextRenderer().title(axes, "$a_b$")
    TextRenderer().ticks(axes.xaxis, ["$x^2$"])
    title, tick = axes.title if axes.title.get_text() else axes._left_title, axes.get_xticklabels()[0]
    assert (title.get_text(), title.get_parse_math(), title.get_usetex()) == ("$a_b$", False, False)
    assert (tick.get_text(), tick.get_parse_math(), tick.get_usetex()) == ("$x^2$", False, False)
    assert FAMILIES[0] in title.get_fontfamily()
