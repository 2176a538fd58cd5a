"""Checks of a checkpoint on disk, or of the environment that should run it. Nothing is unpickled, and no remote code is imported."""

from .checkpoint import check_checkpoint
from .environment import check_environment
from .report import Finding, errors_in, in_lines

__all__ = ["Finding", "check_checkpoint", "check_environment", "errors_in", "in_lines"]
