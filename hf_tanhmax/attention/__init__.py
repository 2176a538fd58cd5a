"""TanhMax attention: `tanhmax_attention` and its implementations."""

from .api import tanhmax_attention, why_not

__all__ = ["tanhmax_attention", "why_not"]
