"""Publishing on the Hub: `push` a checkpoint, `push_kernel` attention alone, `verify_kernel`; `HubError` for what prevents it."""

from .errors import HubError
from .push import check_login, push
from .publish_kernel import push_kernel, verify_kernel

__all__ = ["HubError", "check_login", "push", "push_kernel", "verify_kernel"]
