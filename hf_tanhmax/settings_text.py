"""What TanhMax settings say, in the words that the model card, the doctor and the command line share."""

from collections.abc import Iterable

from .settings import TanhMaxSettings


def settings_in_words(settings: TanhMaxSettings, *, layers: int | None = None) -> str:
    """Polarity, layers and heads, such as "TanhMax attention (polarity 1) in all 6 layers and all heads".

    Args:
        settings: what to say.
        layers: how many layers the model has, where that is known.
    """
    if settings.learned:
        kind = "TanhMax attention whose polarity every head learned for itself,"
    elif settings.polarity == 1:
        kind = "TanhMax attention (polarity 1)"
    elif settings.polarity == 0:
        kind = "TanhMax attention at polarity 0, which computes softmax,"
    else:
        kind = f"attention of polarity {settings.polarity:g}, between softmax (0) and TanhMax (1),"
    chosen = "all layers" if layers is None else f"all {layers} layers"
    if settings.layers is not None:
        chosen = _named("layer", settings.layers) + ("" if layers is None else f" of {layers}") + " (the others are softmax)"
    heads = "all heads" if settings.heads is None else f"{_named('head', settings.heads)} of each (the others are softmax)"
    return f"{kind} in {chosen} and {heads}"


def some(names: Iterable[object], *, shown: int = 3) -> str:
    """The first of many names, and how many more there are."""
    found = sorted(str(name) for name in names)
    return ", ".join(found[:shown]) + (f" and {len(found) - shown} more" if len(found) > shown else "")


def _named(noun: str, indices: tuple[int, ...]) -> str:
    return f"{noun}{'s' if len(indices) > 1 else ''} {', '.join(map(str, indices))}"
