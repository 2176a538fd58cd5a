"""What signed attention says of a model: explanations of one output, and measures of how far to trust them."""

from .examining import METHODS
from .explain import explain, explain_generation
from .explanation import Explanation
from .faithfulness import faithfulness
from .faithfulness_report import FaithfulnessReport
from .measures import MEASURES
from .page import save_page, to_html
from .patches import upsampled
from .plots import plot_head, plot_heads, plot_image, plot_next_tokens, plot_rank_collapse, plot_tokens
from .rank_collapse import RankCollapse, rank_collapse
from .rollout import rollout
from .saving import load_explanation, save_explanation
from .viewers import to_bertviz, to_circuitsvis

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
