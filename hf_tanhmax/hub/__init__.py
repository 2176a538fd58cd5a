"""Publishing on the Hub: `push` a checkpoint, `push_kernel` attention alone, `verify_kernel`; `HubError` for what prevents it."""

from .errors import HubError
from .publish_kernel import push_kernel, verify_kernel
from .push import check_login, push

__all__ = ["HubError", "check_login", "push", "push_kernel", "verify_kernel"]
