"""Text of any script in matplotlib: the installed fonts, a box for letters that none of them has, and line breaks."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ...errors import optional_package

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# After matplotlib's own, what systems have for other scripts. A family that is not installed is passed over.
FAMILIES = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Emoji",
    "Droid Sans Fallback",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Arial Unicode MS",
    "Segoe UI",
    "Segoe UI Symbol",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Nirmala UI",
)
MISSING = "□"


@cache
def families() -> tuple[str, ...]:
    """The families that are installed here, matplotlib's own first."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return tuple(name for name in FAMILIES if name in installed)


@cache
def _code_points() -> frozenset[int]:
    """Code points that one of the families has."""
    from matplotlib.font_manager import FontProperties, fontManager, get_font

    code_points: set[int] = set()
    for name in families():
        code_points |= get_font(fontManager.findfont(FontProperties(family=name))).get_charmap().keys()
    return frozenset(code_points)


class TextRenderer:
    """Literal text at one size: `$` and `_` are letters, whatever a user's matplotlib settings make of them.

    Args:
        size: in points.
    """

    def __init__(self, size: float = 9.0) -> None:
        RendererAgg = optional_package("matplotlib.backends.backend_agg", "figures").RendererAgg  # noqa: N806 - a class
        from matplotlib.font_manager import FontProperties

        self.style: dict[str, Any] = {"family": list(families()), "size": size, "parse_math": False, "usetex": False}
        self._font = FontProperties(family=list(families()), size=size)
        self._renderer = RendererAgg(1, 1, 72)

    def with_boxes(self, text: str) -> str:
        """The text with a box for each letter that no installed font has."""
        return "".join(letter if letter == "\n" or ord(letter) in _code_points() else MISSING for letter in text)

    def width(self, text: str) -> float:
        """Of a line, in points."""
        return float(self._renderer.get_text_width_height_descent(self.with_boxes(text), self._font, ismath=False)[0])

    def wrap(self, texts: Sequence[str], *, width: float, gap: float, padding: float) -> list[list[tuple[int, float, float]]]:
        """Texts in lines, as (index, left edge, width) of each; one that is wider than a line has a line to itself.

        Args:
            texts: in order.
            width: of a line, in points like all lengths here.
            gap: between neighbours.
            padding: of a text, both sides together.
        """
        lines: list[list[tuple[int, float, float]]] = [[]]
        left = 0.0
        for index, text in enumerate(texts):
            text_width = self.width(text) + padding
            if lines[-1] and left + text_width > width:
                lines.append([])
                left = 0.0
            lines[-1].append((index, left, text_width))
            left += text_width + gap
        return lines

    def title(self, axes: "Axes", text: str) -> None:
        """Set the title of axes."""
        axes.set_title(self.with_boxes(text), loc="left", fontsize=10, family=self.style["family"], parse_math=False, usetex=False)

    def ticks(self, axis: "Axis", texts: Sequence[str], *, rotation: float = 0.0) -> None:
        """Label every tick of an axis."""
        axis.set_ticks(range(len(texts)), [self.with_boxes(text) for text in texts], rotation=rotation, **{**self.style, "size": 7.5})
