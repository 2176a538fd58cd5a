"""Explanations of one output of a model by its signed attention, and measures of how far to trust them."""

from ..ablation import NegativesAblation, read_ablation
from ..choices import INTERVENTIONS, METHODS
from .ablation.ablate import ablate_negatives
from .attribution.explain import explain, explain_generation
from .attribution.explanation import Explanation, load_explanation, save_explanation
from .attribution.rank_collapse import RankCollapse, rank_collapse
from .attribution.rivals import most_probable
from .attribution.rollout import rollout
from .faithfulness.evaluate import faithfulness
from .faithfulness.metrics import MEASURES
from .faithfulness.report import FaithfulnessReport
from .inputs.image_patches import upsampled
from .viz.export import to_bertviz, to_circuitsvis
from .viz.page import save_page, to_html
from .viz.plots import plot_head, plot_heads, plot_image, plot_next_tokens, plot_rank_collapse, plot_tokens

__all__ = [
    "INTERVENTIONS",
    "MEASURES",
    "METHODS",
    "Explanation",
    "FaithfulnessReport",
    "NegativesAblation",
    "RankCollapse",
    "ablate_negatives",
    "explain",
    "explain_generation",
    "faithfulness",
    "load_explanation",
    "most_probable",
    "plot_head",
    "plot_heads",
    "plot_image",
    "plot_next_tokens",
    "plot_rank_collapse",
    "plot_tokens",
    "rank_collapse",
    "read_ablation",
    "rollout",
    "save_explanation",
    "save_page",
    "to_bertviz",
    "to_circuitsvis",
    "to_html",
    "upsampled",
]
