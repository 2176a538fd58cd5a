"""The settings of a TanhMax model: polarity, layers, heads, where a learned polarity starts, and parts that stay softmax.

One frozen, checked object. A TanhMax configuration holds the same values with `tanhmax_` before their names, such as `tanhmax_polarity`, so
that they are written to `config.json` and read back from there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .functional import Shift, check_polarity, check_shift

TYPE_PREFIX = "tanhmax_"  # of a model type, before that of Transformers
LEARNED: Literal["learned"] = "learned"
Refitted: TypeAlias = Mapping[str, Any] | float | str | None  # what a config keeps as `tanhmax_refitted_polarity`


@dataclass(frozen=True)
class TanhMaxSettings:
    """How attention weights are signed.

    Attributes:
        polarity: a number in [0, 1] (0 is softmax, 1 is TanhMax), or `"learned"`: one score bias c per head is a parameter of the
            attention module, which computes TanhMax(a + c), that is polarity exp(-2c).
        layers: which layers compute TanhMax; the others stay softmax. Indices, in the model's order, or names: a part of the paths of
            attention modules, such as `"vision_model"`, `"decoder"` or `"layers.*.encoder_attn"`, with `*` and `?` as in file names. None
            is all.
        heads: indices of the heads, in each of those layers, that compute TanhMax; the others stay softmax. None is all.
        score_bias: where c starts if polarity is `"learned"`; 3 is softmax to about 1e-3.
        shift: None, or `"balanced"`: the scores of each row are shifted by one constant, so that the weights are (P - p N) / (1 + p) at
            polarity p, with P the softmax of the scores and N that of their negatives.
        softmax_parts: of a model in which some modules compute softmax themselves, where no setting reaches them: the names of their
            classes, or parts of their paths as for layers, to accept that these stay softmax. None accepts none, unless layers are chosen.

    Raises:
        TypeError, ValueError: a value that is not one of these, with the value in the message.
    """

    polarity: float | Literal["learned"] = 1.0
    layers: tuple[int | str, ...] | None = None
    heads: tuple[int, ...] | None = None
    score_bias: float = 3.0
    shift: Shift = None
    softmax_parts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.polarity, str):
            if self.polarity != LEARNED:
                raise ValueError(f'polarity must be a number in [0, 1] or "learned", but is {self.polarity!r}')
        else:
            object.__setattr__(self, "polarity", check_polarity(self.polarity))
        object.__setattr__(self, "layers", _choice("layers", self.layers, (int, str)))
        object.__setattr__(self, "heads", _choice("heads", self.heads, (int,)))
        object.__setattr__(self, "softmax_parts", _choice("softmax_parts", self.softmax_parts, (str,)))
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
            which = (
                _listed("layer", self.layers)
                + (f" of {layers}" if layers is not None and isinstance(self.layers[-1], int) else "")
                + " (the others are softmax)"
            )
        heads = "all heads" if self.heads is None else f"{_listed('head', self.heads)} of each (the others are softmax)"
        parts = "" if self.softmax_parts is None else f", but for {', '.join(self.softmax_parts)}, which computes softmax by itself"
        return f"{kind} in {which} and {heads}{parts}"


def fitted_to(settings: TanhMaxSettings, layers: int | None, heads: int | None) -> dict[str, Any]:
    """What output projections are fitted to, as a config keeps it: polarity, shift, layers and heads, of which None are all.

    Args:
        settings: of the model.
        layers: how many it has; None where a list that names all of them stays one.
        heads: how many each layer has, or None.
    """

    def _unless_all(indices: tuple[int | str, ...] | None, count: int | None) -> list[int | str] | None:
        numbers = indices is not None and all(isinstance(each, int) for each in indices)
        return None if indices is None or (numbers and len(indices) == count) else list(indices)

    chosen = {"layers": _unless_all(settings.layers, layers), "heads": _unless_all(settings.heads, heads)}
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


def _listed(noun: str, chosen: tuple[int | str, ...]) -> str:
    numbers, names = ([str(each) for each in chosen if isinstance(each, kind)] for kind in (int, str))
    numbered = f"{noun}{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}" if numbers else ""
    named = f"the {noun}s of {', '.join(names)}" if names else ""
    return " and ".join(filter(None, (numbered, named)))


WORDS = {(int,): ("indices", "whole numbers"), (str,): ("names", "names"), (int, str): ("indices or names", "whole numbers or names")}


def _choice(name: str, value: Iterable[int | str] | None, kinds: tuple[type, ...]) -> tuple[int | str, ...] | None:
    """What a setting names, each once: indices in their order, then names."""
    if value is None:
        return None
    noun, kind = WORDS[kinds]
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of {noun} or None, but is {value!r}")
    found = tuple(value)
    for each in found:
        if isinstance(each, bool) or not isinstance(each, kinds):
            raise TypeError(f"{name} must hold {kind}, but holds {each!r}")
        if isinstance(each, int) and each < 0:
            raise ValueError(f"{name} must hold indices counted from 0, but holds {each}")
        if each == "":
            raise ValueError(f"{name} holds an empty name")
    if not found:
        least, without = ("index", "all") if int in kinds else ("part", "none")
        raise ValueError(f"{name} must name at least one {least}; leave it None for {without}")
    if len(set(found)) != len(found):
        numbers = all(isinstance(each, int) for each in found)
        raise ValueError(f"{name} names {'an index' if numbers else 'a part'} twice: {list(found)}")
    return (*sorted(each for each in found if isinstance(each, int)), *(each for each in found if isinstance(each, str)))
