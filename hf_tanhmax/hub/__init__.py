"""Publishing TanhMax checkpoints on the Hub: `push`, and `HubError` for what prevents it."""

from .errors import HubError
from .push import check_login, push

__all__ = ["HubError", "check_login", "push"]
