"""The `hf-tanhmax` command."""

from .arguments import main

__all__ = ["main"]
