"""Of model types, the fields whose tiny values the names do not tell. A name with dots is set after the config is made."""

from typing import Any

CHANGES: dict[str, dict[str, Any]] = {}
