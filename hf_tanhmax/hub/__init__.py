"""Publishing TanhMax checkpoints: `push` sends what `staging` gathered, and `HubError` says what stood in the way."""

from .errors import HubError
from .push import check_login, push

__all__ = ["HubError", "check_login", "push"]
