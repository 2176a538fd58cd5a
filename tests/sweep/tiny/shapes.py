"""Of model types, the inputs that the names of arguments do not tell: shapes without the batch, or all the arguments."""

from typing import Any

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {}

ARGUMENTS: dict[str, dict[str, Any]] = {}
