"""Model cards for TanhMax checkpoints and adapters: what its files say, numbers from the runs, prose from one template."""

from .card import model_card
from .metadata import is_repository

__all__ = ["is_repository", "model_card"]
