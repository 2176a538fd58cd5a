"""Model types that cannot be tried, and why."""


class Untried(Exception):  # noqa: N818
    """A model type that cannot be tried; the message says why."""


PARTS: dict[str, str] = {}
