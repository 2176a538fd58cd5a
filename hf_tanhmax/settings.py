"""The settings of a TanhMax model: polarity, layers, heads, and where a learned polarity starts.

One frozen, checked object. A TanhMax configuration holds the same five values as `tanhmax_polarity`, `tanhmax_layers`,
`tanhmax_heads`, `tanhmax_score_bias` and `tanhmax_shift`, so that they are written to `config.json` and read back from there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .functional import Shift, check_polarity, check_shift

LEARNED: Literal["learned"] = "learned"
Refitted: TypeAlias = Mapping[str, Any] | float | str | None  # what a config keeps as `tanhmax_refitted_polarity`


@dataclass(frozen=True)
class TanhMaxSettings:
    """How attention weights are signed.

    Attributes:
        polarity: a number in [0, 1] (0 is softmax, 1 is TanhMax), or `"learned"`: one score bias c per head is a parameter of the
            attention module, which computes TanhMax(a + c), that is polarity exp(-2c).
        layers: indices of the attention modules, in the model's order, that compute TanhMax; the others stay softmax. None is all.
        heads: indices of the heads, in each of those layers, that compute TanhMax; the others stay softmax. None is all.
        score_bias: where c starts if polarity is `"learned"`; 3 is softmax to about 1e-3.
        shift: None, or `"balanced"`: the scores of each row are shifted by one constant, so that the weights are (P - p N) / (1 + p) at
            polarity p, with P the softmax of the scores and N that of their negatives.

    Raises:
        TypeError, ValueError: a value that is not one of these, with the value in the message.
    """

    polarity: float | Literal["learned"] = 1.0
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    score_bias: float = 3.0
    shift: Shift = None

    def __post_init__(self) -> None:
        if isinstance(self.polarity, str):
            if self.polarity != LEARNED:
                raise ValueError(f'polarity must be a number in [0, 1] or "learned", but is {self.polarity!r}')
        else:
            object.__setattr__(self, "polarity", check_polarity(self.polarity))
        for name in ("layers", "heads"):
            object.__setattr__(self, name, _indices(name, getattr(self, name)))
        if isinstance(self.score_bias, bool) or not isinstance(self.score_bias, int | float):
            raise TypeError(f"score_bias must be a number, but is {self.score_bias!r}")
        if not abs(self.score_bias) <= 40:
            raise ValueError(f"score_bias must be between -40 and 40, but is {self.score_bias}")
        object.__setattr__(self, "score_bias", float(self.score_bias))
        check_shift(self.shift)

    @property
    def learned(self) -> bool:
        """Whether every head learns its own score bias."""
        return self.polarity == LEARNED

    def describe(self, *, layers: int | None = None) -> str:
        """Polarity, shift, layers and heads, such as "TanhMax attention (polarity 1) in all 6 layers and all heads".

        Args:
            layers: how many layers the model has, where that is known.
        """
        shifted = "" if self.shift is None else f" with a {self.shift} shift"
        if self.polarity == LEARNED:
            kind = f"TanhMax attention{shifted} whose polarity every head learned for itself,"
        elif self.polarity == 1 or (self.shift is not None and self.polarity != 0):
            kind = f"TanhMax attention{shifted} (polarity {self.polarity:g})"
        elif self.polarity == 0:
            kind = f"TanhMax attention{shifted} at polarity 0, which computes softmax,"
        else:
            kind = f"attention of polarity {self.polarity:g}, between softmax (0) and TanhMax (1),"
        which = "all layers" if layers is None else f"all {layers} layers"
        if self.layers is not None:
            which = _numbered("layer", self.layers) + ("" if layers is None else f" of {layers}") + " (the others are softmax)"
        heads = "all heads" if self.heads is None else f"{_numbered('head', self.heads)} of each (the others are softmax)"
        return f"{kind} in {which} and {heads}"


def fitted_to(settings: TanhMaxSettings, layers: int, heads: int) -> dict[str, Any]:
    """What output projections are fitted to, as a config keeps it: polarity, shift, layers and heads, of which None are all.

    Args:
        settings: of the model.
        layers: how many it has.
        heads: how many each layer has.
    """

    def _chosen(indices: tuple[int, ...] | None, count: int) -> list[int] | None:
        return None if indices is None or len(indices) == count else list(indices)

    chosen = {"layers": _chosen(settings.layers, layers), "heads": _chosen(settings.heads, heads)}
    return {"polarity": settings.polarity, "shift": settings.shift, **chosen}


def refitted_polarity(refitted: Refitted) -> float | str | None:
    """The polarity in what a config keeps of a refit, which earlier versions kept alone."""
    return refitted["polarity"] if isinstance(refitted, Mapping) else refitted


def check_refitted(asked: Mapping[str, Any], refitted: Refitted) -> None:
    """Refuse other settings than those that output projections were refitted to.

    Args:
        asked: what is asked for, of what `fitted_to` returns.
        refitted: what the projections belong to, or the polarity alone; None where they are as softmax left them.

    Raises:
        ValueError: they differ.
    """
    fitted = refitted if isinstance(refitted, Mapping) else {} if refitted is None else {"polarity": refitted}
    for name, value in asked.items():
        if name in fitted and value != fitted[name]:
            raise ValueError(
                f"{name} {value} was asked for, but the projections of this model were refitted to {name} {fitted[name]} "
                "(tanhmax_refitted_polarity) and compute something else at another; leave it, or put softmax's projections back, with "
                "hf_tanhmax.conversion.originals.undo_refit(model, originals)"
            )


def _numbered(noun: str, indices: tuple[int, ...]) -> str:
    return f"{noun}{'s' if len(indices) > 1 else ''} {', '.join(map(str, indices))}"


def _indices(name: str, value: Iterable[int] | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of indices or None, but is {value!r}")
    found = tuple(value)
    for index in found:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"{name} must hold whole numbers, but holds {index!r}")
        if index < 0:
            raise ValueError(f"{name} must hold indices counted from 0, but holds {index}")
    if not found:
        raise ValueError(f"{name} must name at least one index; leave it None for all")
    if len(set(found)) != len(found):
        raise ValueError(f"{name} names an index twice: {list(found)}")
    return tuple(sorted(found))
