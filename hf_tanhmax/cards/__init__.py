"""Model cards for TanhMax checkpoints and adapters, from their files, the results of their runs and one template."""

from .card import model_card
from .metadata import is_repository

__all__ = ["is_repository", "model_card"]
