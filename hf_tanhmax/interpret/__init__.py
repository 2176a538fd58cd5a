"""Explanations of one output of a model by its signed attention, and measures of how far to trust them."""

from ..ablation import NegativesAblation, read_ablation
from ..choices import EXPLAIN_METHODS, GENERATION_METHODS, INTERVENTIONS, METHODS
from .ablation.ablate import ablate_negatives
from .attribution.conservation import Conservation
from .attribution.decomposition.scores import methods_for, methods_refused
from .attribution.explain import explain, explain_generation, most_probable
from .attribution.explanation import Explanation, load_explanation, save_explanation
from .attribution.generation import GenerationExplanation, explain_whole_generation
from .attribution.rank_collapse import RankCollapse, rank_collapse
from .attribution.rollout import rollout
from .faithfulness.compare import ComparisonOptions, compare_faithfulness
from .faithfulness.comparison import FaithfulnessComparison, read_comparison
from .faithfulness.evaluate import faithfulness
from .faithfulness.heads import HeadAblation, ablate_heads
from .faithfulness.metrics import MEASURES
from .faithfulness.report import FaithfulnessReport
from .inputs.image_patches import upsampled
from .viz.comparison_figure import plot_comparison
from .viz.export import to_bertviz, to_circuitsvis
from .viz.page import save_page, to_html
from .viz.plots import plot_generation, plot_head, plot_heads, plot_image, plot_next_tokens, plot_rank_collapse, plot_tokens

__all__ = [
    "EXPLAIN_METHODS",
    "GENERATION_METHODS",
    "INTERVENTIONS",
    "MEASURES",
    "METHODS",
    "ComparisonOptions",
    "Conservation",
    "Explanation",
    "FaithfulnessComparison",
    "FaithfulnessReport",
    "GenerationExplanation",
    "HeadAblation",
    "NegativesAblation",
    "RankCollapse",
    "ablate_heads",
    "ablate_negatives",
    "compare_faithfulness",
    "explain",
    "explain_generation",
    "explain_whole_generation",
    "faithfulness",
    "load_explanation",
    "methods_for",
    "methods_refused",
    "most_probable",
    "plot_comparison",
    "plot_generation",
    "plot_head",
    "plot_heads",
    "plot_image",
    "plot_next_tokens",
    "plot_rank_collapse",
    "plot_tokens",
    "rank_collapse",
    "read_ablation",
    "read_comparison",
    "rollout",
    "save_explanation",
    "save_page",
    "to_bertviz",
    "to_circuitsvis",
    "to_html",
    "upsampled",
]
