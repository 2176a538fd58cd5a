r"""Attention transfer: train query and key projections of a TanhMax model until its heads compute what those of softmax computed.

The softmax model is the same model at polarity 0, with its weights as they were. Every layer gets the inputs that it has there, and learns
by itself. With :math:`o` the outputs of its heads and :math:`W_o` its output projection, the loss is

.. math:: \sum_{layers} \frac{|W_o (o - o_{softmax})|^2}{|W_o o_{softmax}|^2}
    + mean_{heads} \max(0, floor - \text{negative mass})

where the negative mass of a head is the share of negative weights in all its absolute weight. Without the second part heads may learn to
have no negative weights at all. What is trained is in float32 at least, by AdamW without weight decay, at a rate that rises over the first
tenth of the steps and then falls to 0.

Queries and keys then belong to the polarity that they were trained at: at polarity 0 the model is no softmax model any more.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

from ..integration.hooks import AttentionCall, AttentionFunction, is_signed, replace_attention, without_dropout
from ..integration.patching import attention_modules
from ..integration.registration import heads_of
from ..integration.serving import cache_argument
from ..settings import refitted_polarity
from .layers import without_cache
from .originals import put_back, settings_to_fit
from .projections import find_linear
from .report import TransferReport
from .runner import Batch, Runner, check_batch, chosen_heads, out_of_memory_in_words
from .statistics import real_rows

PURPOSE = "trained by attention transfer"


def transfer(
    model: nn.Module, batches: Iterable[Batch], *, steps: int = 60, floor: float = 0.15, learning_rate: float = 3e-4, seed: int = 0
) -> TransferReport:
    """Train queries and keys, in place, so that each layer computes at the model's polarity what it computes as softmax.

    Unlabelled inputs do. Align the model before, where it can be aligned, or convert it with a balanced shift.

    Args:
        model: a TanhMax model at a polarity above 0, by its class or patched, whose weights are still those of softmax. The layers and
            heads that its settings choose are trained.
        batches: mappings of the model's inputs, as a tokenizer or an image processor makes them. Those of a list or a data set are drawn in
            an order that the seed decides, again and again; any other iterable is read in its own order, and an iterator is kept in memory.
        steps: how often the weights are changed, each time by one batch.
        floor: the negative mass of a head below which it is pressed for more, in [0, 1). With a balanced shift at polarity r no head can
            have more than r / (1 + r), and this is its highest value.
        learning_rate: the highest of AdamW.
        seed: of the order of batches.

    Returns:
        How it went, and the weights and biases as they were, for `hf_tanhmax.to_softmax`.

    Raises:
        ValueError: options out of range, no TanhMax at a polarity above 0, weights that were transferred or refitted before, are not in
            memory or quantised, no batches, inputs that the model refuses, or a loss that is not finite; the weights are then as before.
        TypeError: a batch that is no mapping.
        NotImplementedError: queries and keys that have no plain projections of their own.
    """
    started = time.perf_counter()
    _check_options(steps, floor, learning_rate)
    modules = [module for module in attention_modules(model) if is_signed(module.config)]
    if not modules:
        raise ValueError(
            f"{type(model).__name__} computes no TanhMax at a polarity above 0, so there is nothing to transfer to; convert it first, "
            'aligned at polarity 1, or with shift="balanced"'
        )
    belongs = getattr(modules[0].config, "tanhmax_refitted_polarity", None)
    if belongs is not None:
        raise ValueError(
            f"the projections of this {type(model).__name__} belong to polarity {refitted_polarity(belongs)} already, so at polarity 0 it "
            "is no softmax model to learn from; convert the softmax model again, and transfer before anything is refitted"
        )
    names = {module: name for name, module in model.named_modules()}
    layers, fitted = [_layer_of(model, module, names[module], floor) for module in modules], settings_to_fit(model)
    with without_dropout(model), without_cache(model):
        report = _Transfer(Runner(model, modules), layers, steps, learning_rate).run(batches, seed, started)
    for module in modules:
        module.config.tanhmax_refitted_polarity = fitted  # type: ignore[union-attr]
    return report


@dataclass
class _Layer:
    """An attention module and what is trained of it.

    Attributes:
        module: the attention module.
        name: its path in the model.
        floor: of the negative mass of its heads.
        output: the weight of its output projection, in float32 at least.
        trained: by name in the module, what is trained in place of a weight or bias.
        frozen: by the same names, which of their rows `[rows]` belong to heads that compute softmax.
    """

    module: nn.Module
    name: str
    floor: float
    output: Tensor
    trained: dict[str, Tensor]
    frozen: dict[str, Tensor] = field(default_factory=dict)

    def student(self, call: "_TeacherCall") -> tuple[Tensor, Tensor]:
        """The relative squared error of what its heads compute after the output projection, and their negative mass `[heads]`."""
        found: list[tuple[Tensor, Tensor]] = []

        def keep(attention: AttentionCall) -> tuple[Tensor, Tensor | None]:
            output, weights = attention.compute_with_weights()
            found.append((output, weights[:, chosen_heads(self.module)].transpose(1, 2)[call.real]))
            return output.detach(), None

        with replace_attention([self.module], keep):
            own = dict(self.module.named_parameters())
            values = {name: value.to(own[name].dtype) for name, value in self.trained.items()}
            functional_call(self.module, values, call.args, call.kwargs)
        (output, weights), wide = found[0], self.output.dtype
        wanted = F.linear(call.output.flatten(2)[call.real].to(wide), self.output)
        error = F.linear(output.flatten(2)[call.real].to(wide), self.output) - wanted
        weights, limits = weights.to(wide), torch.finfo(wide)
        # Of a head whose weights are all 0 the mass is 0, with a gradient that does not overflow.
        mass = -weights.clamp(max=0).sum((0, 2)) / weights.abs().sum((0, 2)).clamp(min=limits.eps)
        return error.square().sum() / wanted.square().sum().clamp(min=limits.tiny), mass


class _TeacherCall(NamedTuple):
    """What an attention module was called with in the softmax model, the outputs of its heads, and which queries are no padding."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    real: Tensor


class _Transfer:
    """The training of all layers of a model, which stays as it is until the end."""

    def __init__(self, runner: Runner, layers: list[_Layer], steps: int, learning_rate: float) -> None:
        self.runner, self.layers, self.steps, self.learning_rate = runner, layers, steps, learning_rate
        self.optimizer = torch.optim.AdamW(
            [value for layer in layers for value in layer.trained.values()], lr=learning_rate, weight_decay=0.0
        )

    def run(self, batches: Iterable[Batch], seed: int, started: float) -> TransferReport:
        """Train, and then write into the model."""
        first: Batch | None = None
        rows = 0
        bar = tqdm(_drawn(batches, self.steps, seed), desc="transfer", unit="step", total=self.steps, disable=None)
        for step, batch in enumerate(bar):
            calls, softmax = self._teacher(batch)
            if first is None:
                first, first_calls, first_softmax = batch, calls, softmax
                errors_before, (masses_before, cosine_before) = self._errors(calls), self._signed(batch, softmax)
            rows += int(calls[self.layers[0].module][0].real.sum())
            bar.set_postfix(error=f"{self._step(step, calls):.3f}")
        if first is None:
            raise ValueError("there are no batches to transfer with; give a list of a few, such as 256 texts in all")
        errors = self._errors(first_calls)
        if not all(map(math.isfinite, errors)):
            raise ValueError(f"the errors of layers are NaN or infinite after step {self.steps}; take a lower learning_rate")
        originals, done = self._write(), False
        try:
            masses, cosine = self._signed(first, first_softmax)
            done = True
        finally:
            if not done:
                put_back(self.runner.model, originals)
        return TransferReport(
            steps=self.steps,
            learning_rate=self.learning_rate,
            floor=max(layer.floor for layer in self.layers),
            rows=rows,
            seconds=time.perf_counter() - started,
            error_before=tuple(errors_before),
            error_after=tuple(errors),
            negative_mass_before=masses_before,
            negative_mass_after=masses,
            cosine_before=cosine_before,
            cosine_after=cosine,
            originals=originals,
        )

    @torch.no_grad()
    def _teacher(self, batch: Batch) -> tuple[dict[nn.Module, list[_TeacherCall]], Tensor]:
        """The calls of every module in the softmax model, and its last hidden states."""
        inputs: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        calls: dict[nn.Module, list[_TeacherCall]] = {layer.module: [] for layer in self.layers}

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs[module] = args, kwargs
            if kwargs.get(cache_argument(module.forward) or "") is not None:  # a second call with it would add its keys again
                raise NotImplementedError(f"{type(module).__name__} keeps a cache of keys, so it cannot be {PURPOSE}; pass use_cache=False")

        def compute(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
            output, weights = call.compute()
            calls[call.module].append(_TeacherCall(*inputs[call.module], output, real_rows(call)))
            return output, weights

        handles = [layer.module.register_forward_pre_hook(note, with_kwargs=True) for layer in self.layers]
        functions: list[AttentionFunction] = [compute] * len(self.layers)
        try:
            softmax = self.runner.hidden(batch, functions, polarity=0.0)
        finally:
            for handle in handles:
                handle.remove()
        for layer in self.layers:
            if not calls[layer.module]:
                raise ValueError(f"{layer.name} was not called for these batches, so it cannot be {PURPOSE}; choose other layers or inputs")
        return calls, softmax

    def _step(self, step: int, calls: dict[nn.Module, list[_TeacherCall]]) -> float:
        """Change what is trained by one batch; returns the mean error of the layers before."""
        total = 0.0
        for layer in self.layers:
            with torch.enable_grad():
                loss, of_layer = torch.zeros((), dtype=layer.output.dtype, device=layer.output.device), 0.0
                for call in calls[layer.module]:
                    with out_of_memory_in_words(call.output.shape[:2]):
                        error, mass = layer.student(call)
                    loss = loss + error + F.relu(layer.floor - mass).mean()
                    of_layer += float(error.detach()) / len(calls[layer.module])
            if not math.isfinite(float(loss.detach())):
                raise ValueError(
                    f"the loss of {layer.name} is NaN or infinite at step {step + 1}; look for inputs whose activations are, try float32, "
                    "or a lower learning_rate"
                )
            gradients = torch.autograd.grad(loss, list(layer.trained.values()))
            for (name, value), gradient in zip(layer.trained.items(), gradients, strict=True):
                if name in layer.frozen:
                    gradient[layer.frozen[name]] = 0
                value.grad = gradient
            total += of_layer
        rate = self.learning_rate * min(1.0, (step + 1) / max(1, round(self.steps / 10))) * (1 - step / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return total / len(self.layers)

    @torch.no_grad()
    def _errors(self, calls: dict[nn.Module, list[_TeacherCall]]) -> list[float]:
        return [sum(float(layer.student(call)[0]) for call in calls[layer.module]) / len(calls[layer.module]) for layer in self.layers]

    @torch.no_grad()
    def _signed(self, batch: Batch, softmax: Tensor) -> tuple[tuple[float, ...], float]:
        return self.runner.measure(batch, softmax)

    @torch.no_grad()
    def _write(self) -> dict[str, Tensor]:
        """Put what was trained into the model; returns what was there."""
        originals: dict[str, Tensor] = {}
        for layer in self.layers:
            own = dict(layer.module.named_parameters())
            for name, value in layer.trained.items():
                originals[f"{layer.name}.{name}" if layer.name else name] = own[name].detach().clone()
                own[name].copy_(value)
        return originals


def _check_options(steps: int, floor: float, learning_rate: float) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of 1 or more (60 to 120 are usual), but is {steps!r}")
    if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor < 1:
        raise ValueError(f"floor must be in [0, 1), a share of negative weights such as 0.15, but is {floor!r}")
    if isinstance(learning_rate, bool) or not isinstance(learning_rate, int | float) or not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be a number above 0, such as 3e-4, but is {learning_rate!r}")


def _layer_of(model: nn.Module, module: nn.Module, name: str, floor: float) -> _Layer:
    query, key, output = (find_linear(model, module, role, purpose=PURPOSE) for role in ("query", "key", "output"))
    paths = {each: path for path, each in module.named_modules()}
    wide = torch.promote_types(output.weight.dtype, torch.float32)
    trained, frozen = {}, {}
    heads, chosen = heads_of(module), chosen_heads(module)
    size = query.weight.shape[0] // heads
    for projection in (query, key):
        own_heads = projection.weight.shape[0] // size
        group = heads // own_heads  # query heads that share one of its heads
        softmax = torch.tensor([not set(range(head * group, (head + 1) * group)).issubset(chosen) for head in range(own_heads)])
        for part, value in projection.named_parameters(recurse=False):
            path = f"{paths[projection]}.{part}"
            trained[path] = value.detach().to(wide, copy=True).requires_grad_()
            if bool(softmax.any()):
                frozen[path] = softmax.repeat_interleave(size).to(value.device)
    if getattr(module.config, "tanhmax_shift", None) is not None:
        polarity = getattr(module.config, "tanhmax_polarity", 1.0)
        floor = min(floor, polarity / (1 + polarity)) if isinstance(polarity, float) else floor
    return _Layer(module, name, floor, output.weight.detach().to(wide), trained, frozen)


def _drawn(batches: Iterable[Batch], steps: int, seed: int) -> Iterator[Batch]:
    """So many batches, from the start again where they end."""
    if iter(batches) is batches:
        batches = list(batches)
    generator, drawn = torch.Generator().manual_seed(seed), 0
    while drawn < steps:
        again, before = batches, drawn
        if hasattr(batches, "__getitem__") and hasattr(batches, "__len__") and not isinstance(batches, Mapping):
            again = (batches[index] for index in torch.randperm(len(batches), generator=generator).tolist())  # type: ignore[arg-type]
        for batch in islice(again, steps - drawn):
            check_batch(batch)
            drawn += 1
            yield batch
        if drawn == before:
            return
