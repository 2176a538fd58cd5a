"""What signed attention says of a model: explanations of one output, and measures of how far to trust them."""

from .attribution.examining import METHODS
from .attribution.explain import explain, explain_generation
from .attribution.explanation import Explanation
from .attribution.rank_collapse import RankCollapse, rank_collapse
from .attribution.rollout import rollout
from .attribution.saving import load_explanation, save_explanation
from .faithfulness.evaluate import faithfulness
from .faithfulness.metrics import MEASURES
from .faithfulness.report import FaithfulnessReport
from .inputs.image_patches import upsampled
from .viz.export import to_bertviz, to_circuitsvis
from .viz.page import save_page, to_html
from .viz.plots import plot_head, plot_heads, plot_image, plot_next_tokens, plot_rank_collapse, plot_tokens

__all__ = [
    "MEASURES",
    "METHODS",
    "Explanation",
    "FaithfulnessReport",
    "RankCollapse",
    "explain",
    "explain_generation",
    "faithfulness",
    "load_explanation",
    "plot_head",
    "plot_heads",
    "plot_image",
    "plot_next_tokens",
    "plot_rank_collapse",
    "plot_tokens",
    "rank_collapse",
    "rollout",
    "save_explanation",
    "save_page",
    "to_bertviz",
    "to_circuitsvis",
    "to_html",
    "upsampled",
]
