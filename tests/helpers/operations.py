"""Names of the operations that torch's dispatcher sees."""

from torch.utils._python_dispatch import TorchDispatchMode


class Seen(TorchDispatchMode):
    """Within it every operation runs as it does, and its name is kept in `names`."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))
