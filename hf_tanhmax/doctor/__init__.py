"""The doctor looks at a checkpoint on disk, or at the environment that should run it. It unpickles nothing and imports no remote code."""

from .checkpoint import check_checkpoint
from .environment import check_environment
from .report import Finding, errors_in, in_lines

__all__ = ["Finding", "check_checkpoint", "check_environment", "errors_in", "in_lines"]
