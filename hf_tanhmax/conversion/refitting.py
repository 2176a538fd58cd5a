"""Refit the output projections of a converted model in closed form, so that its residual stream is that of the softmax model again.

Layer by layer, the softmax model (the same weights at polarity 0) and the student (the polarity and shift that the model has, the output
projections refitted so far) run side by side. With h and H the hidden states of student and softmax model before a layer, Y what the
softmax model's attention adds, and o the heads' outputs of the student, the projection is changed by ridge regression such that

    h + W_o o + b_o   comes close to   H + Y

which also makes good for what earlier layers left. `regression` has the sums, `layers` runs the layers, `streams` keeps the hidden states.
The projection then belongs to that polarity, shift, layers and heads: the model's config holds them as `tanhmax_refitted_polarity`, and
others are refused.
"""

import math
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import some
from ..integration.hooks import computes_tanhmax, without_dropout
from ..integration.registration import SCORE_BIAS, heads_of
from ..settings import LEARNED, check_refitted, refitted_polarity
from .layers import Arguments, Layer, LayerArguments, adds_to_its_input, adds_to_its_output, find_layers, leaves
from .originals import add_biases, can_add_biases, put_back, read_originals, settings_to_fit
from .regression import OutputSums, Stream
from .runner import Batch, check_batch, chosen_heads
from .streams import Streams, digest_of_tensors, digest_of_weights

RIDGE = 1e-1  # on other texts than those of the fit better than 1e-2, and on its own no worse


@dataclass(frozen=True)
class RefitReport:
    """How output projections were refitted.

    Attributes:
        polarity: that they belong to, or `"learned"`.
        ridge: the penalty of the fit, over the mean square of what it fits with.
        bias: whether the output biases were refitted too.
        rows: query rows (tokens or patches, without padding) that every layer was fitted to.
        batches: how many batches they came from.
        seconds: for all of it, in however many runs.
        layers: names of the layers that were refitted.
        error_before: per refitted layer, how far the stream after attention is from the softmax model's while the layer's own projection is
            as it was, over the norm of what attention adds there.
        error_after: the same, refitted.
        originals: the parameters as they were, by name, for `to_softmax`; not part of the report's text or values.
    """

    polarity: float | str
    ridge: float
    bias: bool
    rows: int
    batches: int
    seconds: float
    layers: tuple[str, ...]
    error_before: tuple[float, ...]
    error_after: tuple[float, ...]
    originals: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def describe(self) -> str:
        """What was done and what came of it, as the rest of a sentence about the model."""
        before, after = (100 * sum(errors) / len(errors) for errors in (self.error_before, self.error_after))
        polarity = self.polarity if isinstance(self.polarity, str) else f"{self.polarity:g}"
        return (
            f"had the output projections of {len(self.layers)} layers refitted to polarity {polarity} on {self.rows:,} tokens: the stream "
            f"after attention is off by {after:.0f} % of what softmax attention adds ({before:.0f} % before)"
        )

    def values(self) -> dict[str, Any]:
        """All but the originals, as JSON takes it."""
        return {key: value for key, value in vars(self).items() if key != "originals"}


@torch.no_grad()
def refit(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    ridge: float = RIDGE,
    bias: bool | None = None,
    originals: Mapping[str, Tensor] | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
) -> RefitReport:
    """Refit the output projections of the layers that compute TanhMax, in place, to what softmax computes with the same weights.

    Batches are read one at a time and once; the hidden states before one layer are kept on the disk, so that memory does not grow with the
    data. Unlabelled inputs do, of the kinds that the model is for: what is fitted belongs to its data.

    Args:
        model: a TanhMax model whose weights are still those of softmax, perhaps aligned, at the polarity and shift that it is to have.
        batches: mappings of the model's inputs, as a tokenizer or an image processor makes them.
        ridge: the penalty of the fit, over the mean square of the heads' outputs.
        bias: whether output biases are refitted too. LLaMA has none: it gets them, with `attention_bias=True` in its config. None is where
            the model has them, or its config can say that it gets them, which those of Mistral, Qwen2 and T5 cannot.
        originals: parameters of the softmax model, by name, where the model's own are different already, as attention transfer leaves them.
        folder: where hidden states and fitted layers are kept, so that a run that was ended continues there; None is a temporary folder.
        progress: whether to show a bar.

    Returns:
        What it was fitted to and how well, and the parameters as they were.

    Raises:
        ValueError: settings out of range, a softmax model, polarity 0, a second refit, no batches or too few rows, inputs that the model
            refuses, activations that are not finite, weights that are quantised or not in memory, or a folder of another refit. The model
            is then as it was.
        TypeError: a batch that is no mapping.
        NotImplementedError: layers that cannot be run one at a time, or projections that are no plain linear layers.
        torch.OutOfMemoryError: a batch that does not fit into memory; the message says what to lower.
    """
    if isinstance(ridge, bool) or not isinstance(ridge, int | float) or not 0 < ridge < math.inf:
        raise ValueError(f"ridge must be a number above 0, but is {ridge!r}")
    layers = find_layers(model, "refitted")
    fitted = _settings_to_fit(model, layers, originals)
    teacher = read_originals(model, originals) if originals else {}
    kept = _copies(model, layers)
    bias = can_add_biases(model, [layer.attention for layer in layers]) if bias is None else bias
    if twice := sorted(kept.keys() & teacher.keys()):
        raise ValueError(f"originals hold {some(twice)}, which was refitted already; refit once")
    with ExitStack() as stack:
        stack.enter_context(without_dropout(model))
        place = folder if folder is not None else stack.enter_context(tempfile.TemporaryDirectory(prefix="hf-tanhmax-refit-"))
        run = _Run(model, layers, _Options(ridge, bias), teacher, Streams(Path(place)))
        done = False
        try:
            report = run.refit(batches, fitted["polarity"], kept, progress=progress)
            done = True
        finally:
            if not done:
                put_back(model, kept)
    for layer in layers:
        layer.attention.config.tanhmax_refitted_polarity = fitted  # type: ignore[union-attr]
    return report


class _Options(NamedTuple):
    ridge: float
    bias: bool


@dataclass
class _Run:
    """What a refit works on.

    Attributes:
        whole: whether layers add what their output projections return at their end, which a first batch tells, and not to their input.
    """

    model: nn.Module
    layers: list[Layer]
    options: _Options
    teacher: Mapping[str, Tensor]
    streams: Streams
    whole: bool = False

    def refit(self, batches: Iterable[Batch], polarity: float | str, kept: Mapping[str, Tensor], *, progress: bool) -> RefitReport:
        """Fit what is not fitted yet, and bring all of it into the model."""
        started, earlier = time.perf_counter(), 0.0
        count = self._begin(batches, polarity)
        if self.options.bias:
            add_biases(self.model, [layer.attention for layer in self.layers])
        fitted = {}
        with tqdm(desc="refit", unit="batch", total=len(self.layers) * count, disable=not progress) as bar:
            for index, layer in enumerate(self.layers):
                if self.streams.has(f"fitted/{index}"):
                    fitted[layer.name] = self._bring(layer, self.streams.load(f"fitted/{index}"))
                    earlier += fitted[layer.name]["seconds"]
                    bar.update(count)
                else:
                    fitted[layer.name] = self._fit(index, count, bar)
                self.streams.drop(f"streams/{index}")
        self.streams.drop("streams")
        fitted = {name: each for name, each in fitted.items() if each["rows"]}
        return RefitReport(
            polarity=polarity,
            ridge=self.options.ridge,
            bias=self.options.bias,
            rows=max(each["rows"] for each in fitted.values()),
            batches=count,
            seconds=earlier + time.perf_counter() - started,
            layers=tuple(fitted),
            error_before=tuple(each["before"] for each in fitted.values()),
            error_after=tuple(each["after"] for each in fitted.values()),
            originals=kept,
        )

    def _begin(self, batches: Iterable[Batch], polarity: float | str) -> int:
        """Keep what layers are called with for every batch, and the hidden states before the first; returns how many batches there are."""
        reader, digests = LayerArguments(self.model, self.layers), list[str]()
        weights, fresh = digest_of_weights(self.model), not self.streams.has("fitted/0")
        for index, batch in enumerate(batches):
            check_batch(batch)
            hidden, arguments = reader.read(batch)
            if not digests:
                self.whole = _adds_at_its_end(self.layers[0], hidden, arguments[0])
            digests.append(digest_of_tensors(hidden, *(each for each in leaves(arguments) if isinstance(each, Tensor))))
            self.streams.save(f"streams/arguments/{index}", [tuple(each) for each in arguments])
            for stream in ("softmax", "student") if fresh else ():
                self.streams.save(f"streams/0/{stream}-{index}", hidden)
        if not digests:
            raise ValueError("there are no batches to refit with; give a list of a few, such as 8,192 tokens in all")
        views = [layer.attention.config for layer in self.layers]
        settings = [[getattr(view, f"tanhmax_{name}", None) for name in ("polarity", "heads", "shift")] for view in views]
        self.streams.begin({"weights": weights, "settings": [*self.options, *settings], "batches": digests})
        return len(digests)

    def _bring(self, layer: Layer, fitted: dict[str, Any]) -> dict[str, Any]:
        """Copy what was fitted into a layer; returns it."""
        for name in ("weight", "bias"):
            if name in fitted:
                getattr(layer.output, name).copy_(fitted[name])
        return fitted

    def _fit(self, index: int, count: int, bar: "tqdm[Any]") -> dict[str, Any]:
        """Refit one layer, if it computes TanhMax, and keep the hidden states after it; returns what was fitted."""
        started, layer, sums = time.perf_counter(), self.layers[index], None
        chosen, last = computes_tanhmax(layer.attention.config), index + 1 == len(self.layers)
        for batch in range(count):
            found = self._compare(index, batch, chosen=chosen, last=last)
            sums = found if sums is None or found is None else sums + found
            bar.update()
        fitted: dict[str, Any] = {"rows": 0} if sums is None else self._change(layer, sums)
        self._bring(layer, fitted)
        for batch in [] if last else range(count):
            hidden = self.streams.load(f"streams/{index}/student-{batch}")
            self.streams.save(f"streams/{index + 1}/student-{batch}", layer(hidden, self._arguments(index, batch)))
        fitted["seconds"] = time.perf_counter() - started
        self.streams.save(f"fitted/{index}", fitted)
        return fitted

    def _arguments(self, index: int, batch: int) -> Arguments:
        return Arguments(*self.streams.load(f"streams/arguments/{batch}")[index])

    def _compare(self, index: int, batch: int, *, chosen: bool, last: bool) -> OutputSums | None:
        """The sums over one batch of a layer that computes TanhMax; keeps what the softmax model's hidden states are after the layer."""
        layer, arguments = self.layers[index], self._arguments(index, batch)
        softmax = self.streams.load(f"streams/{index}/softmax-{batch}").to(layer.output.weight.device)
        prefix = f"{layer.name}."
        like = {name: self.model.get_parameter(name) for name in self.teacher if name.startswith(prefix)}
        teacher = {name.removeprefix(prefix): self.teacher[name].to(mine.device, mine.dtype) for name, mine in like.items()}
        added, after, real = layer.softmax(softmax, arguments, teacher)
        if not last:
            self.streams.save(f"streams/{index + 1}/softmax-{batch}", after)
        if not chosen:
            return None
        student = self.streams.load(f"streams/{index}/student-{batch}").to(softmax.device)
        heads, output, beside = layer.heads(student, arguments, whole=self.whole)
        wanted = after - added if self.whole else softmax
        return OutputSums.of(heads[real], Stream(beside[real], output[real]), Stream(wanted[real], added[real]))

    def _change(self, layer: Layer, sums: OutputSums) -> dict[str, Any]:
        """Change a layer's output projection; returns what to keep of that."""
        needed = layer.output.in_features + 1
        if sums.rows < needed:
            raise ValueError(
                f"the batches have {sums.rows} rows (tokens or patches, without padding), but {needed} are needed at least to fit the "
                f"{needed} numbers of every output of {layer.name}; give more inputs, such as {8 * needed:,} tokens"
            )
        if not sums.finite:
            raise ValueError(f"{layer.name} has hidden states that are NaN or infinite for these batches; try float32")
        device, weight, bias = sums.squares.device, layer.output.weight, layer.output.bias
        change = sums.solve(self.options.ridge, _pull(layer).to(device), bias=self.options.bias)
        fitted = {"weight": (weight.to(device, torch.float64) + change.weight).to(weight.device, weight.dtype)}
        if self.options.bias:
            fitted["bias"] = (bias.to(device, torch.float64) + change.bias).to(bias.device, bias.dtype)
        return {**fitted, "rows": sums.rows, "before": change.before, "after": change.after}


def _settings_to_fit(model: nn.Module, layers: list[Layer], originals: Mapping[str, Tensor] | None) -> dict[str, Any]:
    """Polarity, shift, layers and heads of a model that can be refitted."""
    owner = type(model).__name__
    views: list[Any] = [layer.attention.config for layer in layers if computes_tanhmax(layer.attention.config)]
    if not views:
        raise ValueError(
            f'{owner} computes softmax, so there is nothing to refit; convert it first, for example with shift="balanced" and polarity=0.2'
        )
    fitted, refitted = settings_to_fit(model), getattr(views[0], "tanhmax_refitted_polarity", None)
    if refitted is not None and originals is None:
        raise ValueError(
            f"the projections of this {owner} were refitted already, to polarity {refitted_polarity(refitted)}, so softmax is "
            "not what it computes at polarity 0; refit once, or pass originals=, the parameters of the softmax model"
        )
    check_refitted(fitted, refitted)
    if fitted["polarity"] == 0:
        raise ValueError(f"the polarity of this {owner} is 0, which is softmax, so there is nothing to refit; set a polarity above 0 first")
    return fitted


def _copies(model: nn.Module, layers: list[Layer]) -> dict[str, Tensor]:
    """Copies of the output projections that will change, by their names in the model."""
    if getattr(model, "hf_quantizer", None) is not None:
        raise ValueError(
            f"this {type(model).__name__} is quantised, so it cannot be refitted; refit it in floating point, and quantise that"
        )
    names = {id(value): name for name, value in model.named_parameters()}
    outputs = [layer.output for layer in layers if computes_tanhmax(layer.attention.config)]
    values = [each for output in outputs for each in (output.weight, output.bias) if each is not None]
    return {names[id(value)]: value.detach().to("cpu", copy=True) for value in values}


def _adds_at_its_end(layer: Layer, hidden: Tensor, arguments: Arguments) -> bool:
    """Whether a layer adds what its output projection returns at its end; False where it adds it to its input at once."""
    if adds_to_its_input(layer, hidden, arguments):
        return False
    if adds_to_its_output(layer, hidden, arguments):
        return True
    raise NotImplementedError(
        f"{type(layer.module).__name__} does more with its input than to add to it what the output projection returns, so it cannot be "
        "refitted"
    )


def _pull(layer: Layer) -> Tensor:
    """What each weight is pulled towards, less the weight, `[width, hidden]` in float64: with a balanced shift, 1 + p times the weight.

    There attention is (P V - p N V) / (1 + p), whose part of softmax is smaller than softmax by that factor.
    """
    module, width = layer.attention, layer.output.in_features
    config: Any = module.config
    polarity = torch.zeros(heads_of(module), dtype=torch.float64)
    if config.tanhmax_shift is not None:
        heads = chosen_heads(module)
        learned = config.tanhmax_polarity == LEARNED
        polarity[heads] = torch.exp(-2 * getattr(module, SCORE_BIAS).cpu().double())[heads] if learned else float(config.tanhmax_polarity)
    return polarity.repeat_interleave(width // len(polarity))[:, None] * layer.output.weight.cpu().double().mT
