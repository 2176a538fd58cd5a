"""Colours of signed numbers: blue above zero, orange below, and the background at zero.

Blue and orange stay apart for every common colour blindness, and both ends are equally dark, so that a print in grey shows the absolute
value. The middle is white; on a dark page it is the page's background.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.colors import LinearSegmentedColormap

# From zero outwards, in equal steps.
POSITIVE = ("#ffffff", "#a9cbf0", "#4388cf", "#0f4a91")
NEGATIVE = ("#ffffff", "#f7be8f", "#d8792c", "#8d3f04")
DARK_POSITIVE = ("#16181c", "#1d4470", "#3d86d6", "#b4d8ff")
DARK_NEGATIVE = ("#16181c", "#633510", "#cf7429", "#ffd3a8")


def colour_map() -> "LinearSegmentedColormap":
    """Matplotlib's colour map: 0 is the strongest orange, 0.5 exactly white, 1 the strongest blue."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("signed", [*reversed(NEGATIVE), *POSITIVE[1:]], N=511)
