"""The `hf-tanhmax` command: quick to answer help and mistakes, as torch is imported only once the arguments are right."""

from .arguments import main

__all__ = ["main"]
