"""Text of any script in matplotlib: fonts that are installed, letters that none of them has, and lines that are broken."""

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
def _letters() -> frozenset[int]:
    """Code points that one of the families has."""
    from matplotlib.font_manager import FontProperties, fontManager, get_font

    found: set[int] = set()
    for name in families():
        found |= get_font(fontManager.findfont(FontProperties(family=name))).get_charmap().keys()
    return frozenset(found)


class Lettering:
    """Text as it stands, at one size: `$` and `_` are letters, whatever a user's matplotlib settings make of them.

    Args:
        size: in points.
    """

    def __init__(self, size: float = 9.0) -> None:
        RendererAgg = optional_package("matplotlib.backends.backend_agg", "figures").RendererAgg  # noqa: N806 - a class
        from matplotlib.font_manager import FontProperties

        self.style: dict[str, Any] = {"family": list(families()), "size": size, "parse_math": False, "usetex": False}
        self._font = FontProperties(family=list(families()), size=size)
        self._renderer = RendererAgg(1, 1, 72)

    def drawn(self, text: str) -> str:
        """The text with a box for each letter that no installed font has."""
        return "".join(letter if letter == "\n" or ord(letter) in _letters() else MISSING for letter in text)

    def width(self, text: str) -> float:
        """Of a line, in points."""
        return float(self._renderer.get_text_width_height_descent(self.drawn(text), self._font, ismath=False)[0])

    def wrapped(self, texts: Sequence[str], *, width: float, gap: float, padding: float) -> list[list[tuple[int, float, float]]]:
        """Texts set in lines, as (index, left edge, width) of each; one that is wider than a line has a line to itself.

        Args:
            texts: to set.
            width: of a line, in points like all lengths here.
            gap: between neighbours.
            padding: of a text, both sides together.
        """
        lines: list[list[tuple[int, float, float]]] = [[]]
        left = 0.0
        for index, text in enumerate(texts):
            wide = self.width(text) + padding
            if lines[-1] and left + wide > width:
                lines.append([])
                left = 0.0
            lines[-1].append((index, left, wide))
            left += wide + gap
        return lines

    def title(self, axes: "Axes", text: str) -> None:
        """Set the title of axes."""
        axes.set_title(self.drawn(text), loc="left", fontsize=10, family=self.style["family"], parse_math=False, usetex=False)

    def ticks(self, axis: "Axis", texts: Sequence[str], *, rotation: float = 0.0) -> None:
        """Label every place of an axis."""
        axis.set_ticks(range(len(texts)), [self.drawn(text) for text in texts], rotation=rotation, **{**self.style, "size": 7.5})
