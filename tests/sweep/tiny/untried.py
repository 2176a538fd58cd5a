"""Model types that cannot be tried, and why; others say so themselves when their model or inputs are asked for."""

LACKING_CACHE = "its layers read keys and values of a bigger model alone, and no config makes it without that model"


class Untried(Exception):  # noqa: N818
    """A model type that cannot be tried; the message says why."""


UNTRIED: dict[str, str] = {"gemma4_assistant": LACKING_CACHE, "gemma4_unified_assistant": LACKING_CACHE}
