"""TanhMax attention: `tanhmax_attention`, and under it one folder per way of computing it."""

from .api import tanhmax_attention, why_not

__all__ = ["tanhmax_attention", "why_not"]
