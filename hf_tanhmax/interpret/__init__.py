"""What signed attention says of a model: explanations of one output, and measures of how far to trust them."""

from .examining import METHODS
from .explain import explain, explain_generation
from .explanation import Explanation
from .faithfulness import faithfulness
from .faithfulness_report import FaithfulnessReport
from .measures import MEASURES
from .patches import upsampled
from .rollout import rollout
from .saving import load_explanation, save_explanation
from .viewers import to_bertviz, to_circuitsvis

__all__ = [
    "MEASURES",
    "METHODS",
    "Explanation",
    "FaithfulnessReport",
    "explain",
    "explain_generation",
    "faithfulness",
    "load_explanation",
    "rollout",
    "save_explanation",
    "to_bertviz",
    "to_circuitsvis",
    "upsampled",
]
