r"""What the target's logit does without one head of one layer, and without the negative weights of that head.

Let o be what the attention of a layer puts out, for each head :math:`o_i = \sum_j w_{ij} v_j`. Without the head :math:`o_i = 0`; without
its negative weights :math:`o_i = \sum_j \max(w_{ij}, 0) v_j`, and nothing is divided again. The change is the logit without it, less the
logit of the whole model. Later layers see what is left, so changes of several heads do not add up to the change without all of them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...integration.hooks import signed_heads
from ...integration.patching import attention_modules
from ...integration.registration import heads_of
from ...results import table
from ..attribution.evaluation_mode import display_name, evaluation_mode, resolve_layers, unwrap
from ..attribution.forward_passes import without_cache
from ..attribution.integrated_gradients import baseline_token
from ..attribution.target import choose_target, logits_of
from ..inputs.encoding import ImageProcessor, ModelInput, encode
from .intervals import Cell, mean_with_interval
from .perturbation import BAR_FORMAT, Example, Perturbation, PerturbationRunner, advance

WHOLE, NEGATIVES = "head", "head_negatives"
SHOWN = 8  # heads of a table


@dataclass(frozen=True)
class HeadAblation:
    """Changes of the target's logit, text by text; L layers of H heads.

    Attributes:
        model: its name.
        layers: indices of the layers.
        signed: `[L][H]`, whether the head has weights below 0.
        logits: of each text, with all heads.
        without_head: `[texts][L][H]`, logit without the head less logit.
        without_negatives: the same without the negative weights of the head; 0 where it has none.
        settings: arguments of the run, and versions.
    """

    model: str
    layers: tuple[int, ...]
    signed: tuple[tuple[bool, ...], ...]
    logits: tuple[float, ...]
    without_head: NDArray[numpy.float64]
    without_negatives: NDArray[numpy.float64]
    settings: dict[str, Any] = field(default_factory=dict)

    def cells(self, *, negatives: bool = False) -> dict[tuple[int, int], Cell]:
        """By layer and head, the mean change and its bootstrap interval over texts."""
        changes = self.without_negatives if negatives else self.without_head
        return {
            (layer, head): mean_with_interval(tuple(changes[:, place, head].tolist()), 0)
            for place, layer in enumerate(self.layers)
            for head in range(changes.shape[2])
        }

    def table(self, *, shown: int = SHOWN) -> str:
        """A Markdown table of the heads without which the logit changes most in the mean over texts."""
        whole, negative = self.cells(), self.cells(negatives=True)
        order = sorted(whole, key=lambda place: -abs(whole[place].mean or 0.0))[:shown]
        signed = {(layer, head): self.signed[place][head] for place, layer in enumerate(self.layers) for head in range(len(self.signed[0]))}
        rows = [[f"{place[0]}.{place[1]}", str(whole[place]), str(negative[place]) if signed[place] else "-"] for place in order]
        return table(["layer.head", "logit without it", "without its negative weights"], rows, markdown=True, align="left")

    def summary(self) -> dict[str, Any]:
        """Means and intervals of all heads, and of their negative weights where they have some, by "layer.head"."""
        whole, negative = self.cells(), self.cells(negatives=True)
        signed = {(layer, head) for place, layer in enumerate(self.layers) for head, has in enumerate(self.signed[place]) if has}
        return {
            "texts": len(self.logits),
            "without_head": {f"{layer}.{head}": asdict(cell) for (layer, head), cell in whole.items()},
            "without_negatives": {f"{layer}.{head}": asdict(cell) for (layer, head), cell in negative.items() if (layer, head) in signed},
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> "HeadAblation":
        """What `to_dict` gave."""
        return cls(
            found["model"],
            tuple(found["layers"]),
            tuple(map(tuple, found["signed"])),
            tuple(found["logits"]),
            numpy.array(found["without_head"]),
            numpy.array(found["without_negatives"]),
            found["settings"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it; changes have six decimals."""
        return {
            "model": self.model,
            "layers": list(self.layers),
            "signed": [list(layer) for layer in self.signed],
            "logits": [round(logit, 6) for logit in self.logits],
            "without_head": self.without_head.round(6).tolist(),
            "without_negatives": self.without_negatives.round(6).tolist(),
            "settings": self.settings,
        }


def ablate_heads(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    texts: Sequence[ModelInput],
    *,
    targets: Sequence[int | str | None] | None = None,
    processor: ImageProcessor | None = None,
    layers: int | Sequence[int] | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    progress: bool = True,
) -> HeadAblation:
    """What the target's logit does without each head, and without the negative weights of each head that has some.

    Args:
        model: as for `explain`.
        tokenizer: of the model; None for images.
        texts: texts, or whatever else `explain` takes as inputs.
        targets: one per text; None is what the model predicts.
        processor: image processor, for PIL images.
        layers: attention layers whose heads are left out; None is all.
        batch_size: copies per forward pass.
        max_length: cuts longer texts.
        progress: whether to show a bar.

    Raises:
        ValueError, TypeError: as `faithfulness`; layers of unequal numbers of heads.
    """
    if isinstance(texts, str) or not len(texts):
        raise ValueError("texts must be a list of at least one text")
    wanted = [None] * len(texts) if targets is None else list(targets)
    if len(wanted) != len(texts):
        raise ValueError(f"there are {len(wanted)} targets for {len(texts)} texts; give one for each, or None")
    inner = unwrap(model)
    indices = resolve_layers(inner, layers)
    signed = _signed_heads(inner, indices)
    options = _Encoding(tokenizer, processor, max_length)
    with evaluation_mode(inner), tqdm(total=len(texts), unit="text", bar_format=BAR_FORMAT, disable=not progress) as bar:
        examples = {index: _example(inner, index, pair, options) for index, pair in enumerate(zip(texts, wanted, strict=True))}
        copies = [copy for index in examples for copy in (_as_is(index), *_without(index, signed))]
        runner = PerturbationRunner(
            inner,
            examples,
            layers=indices,
            baseline=baseline_token(inner, tokenizer),
            batch_size=batch_size,
            progress=lambda done: advance(bar, len(texts) * done / len(copies)),
        )
        outputs = runner.outputs(copies)
    logits = [outputs[_as_is(index)].logit for index in examples]
    changes = {kind: numpy.zeros((len(texts), *signed.shape)) for kind in (WHOLE, NEGATIVES)}
    for index in examples:
        for copy in _without(index, signed):
            changes[copy.kind][(index, *(copy.head or ()))] = outputs[copy].logit - logits[index]
    settings = {
        "texts": len(texts),
        "copies": len(copies),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    return HeadAblation(
        display_name(inner), tuple(indices), tuple(map(tuple, signed.tolist())), tuple(logits), changes[WHOLE], changes[NEGATIVES], settings
    )


class _Encoding(NamedTuple):
    """What makes inputs of a model."""

    tokenizer: PreTrainedTokenizerBase | None
    processor: ImageProcessor | None
    max_length: int | None


def _signed_heads(model: PreTrainedModel, layers: list[int]) -> NDArray[numpy.bool_]:
    modules = attention_modules(model)
    heads = [heads_of(modules[layer]) for layer in layers]
    if len(set(heads)) > 1:
        raise ValueError(f"the layers of {type(model).__name__} have unequal numbers of heads, {heads}; name layers= that agree")
    return numpy.array([signed_heads(modules[layer].config, heads[0]).tolist() for layer in layers])


def _example(model: PreTrainedModel, index: int, pair: tuple[ModelInput, int | str | None], options: _Encoding) -> Example:
    text, target = pair
    try:
        encoded = encode(model, text, tokenizer=options.tokenizer, processor=options.processor, max_length=options.max_length)
        with torch.no_grad():
            logits = logits_of(model(**encoded.inputs, **without_cache(model)), model)
        return Example(encoded, choose_target(model, logits, encoded.inputs, target, tokenizer=options.tokenizer))
    except (TypeError, ValueError) as error:
        raise type(error)(f"text {index}: {error}") from error


def _as_is(index: int) -> Perturbation:
    return Perturbation(index, "mask")


def _without(index: int, signed: NDArray[numpy.bool_]) -> list[Perturbation]:
    places = [(layer, head) for layer, heads in enumerate(signed) for head in range(len(heads))]
    kinds = ((WHOLE, places), (NEGATIVES, [place for place in places if signed[place]]))
    return [Perturbation(index, kind, head=place) for kind, chosen in kinds for place in chosen]
