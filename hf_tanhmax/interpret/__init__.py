"""What signed attention says of a model: explanations of one output, and measures of how far to trust them."""

from .examining import METHODS
from .explain import explain, explain_generation
from .explanation import Explanation
from .patches import upsampled
from .rollout import rollout

__all__ = ["METHODS", "Explanation", "explain", "explain_generation", "rollout", "upsampled"]
