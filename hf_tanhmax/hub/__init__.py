"""Publishing TanhMax checkpoints: `push` sends what `staging` gathered, and `HubError` says what stood in the way."""

from .push import check_login, push
from .sentences import HubError

__all__ = ["HubError", "check_login", "push"]
