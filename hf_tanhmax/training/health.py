"""Statistics of signed attention per layer: the share that is negative, the sum of the weights, the norm of the output.

Over the weights w of real (not padded) queries and keys of one layer:

* negative mass n = sum of |w| where w < 0, divided by sum of |w|; softmax has 0, and a balanced shift of polarity p brings up to
  p / (1 + p) by itself, so that there it does not say that signs were learned
* weight sum = sum over keys of |w|, mean over heads and queries; softmax has 1, TanhMax at most 1, and 0 is attention that does nothing
* sign entropy = -n log2 n - (1 - n) log2 (1 - n) of each head and query, in bits, mean over them: 1 where both signs weigh the same, 0
  where a query uses one sign only
* output norm = mean L2 norm of what the attention module returns, over that of the same weights under softmax before training
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..integration.hooks import AttentionCall, AttentionFunction, replace_attention
from ..integration.patching import attention_modules, tanhmax_on
from ..models.family import TanhMaxFields
from ..processors import modality

Batches = Sequence[dict[str, Tensor]]
IGNORED = -100  # the label of a token that is not to be predicted, as in all of Transformers
MEASURES = ("negative_mass", "weight_sum", "sign_entropy", "output_norm")


class AttentionHealth:
    """Sums over batches, for each attention module that was called, by its place in the model."""

    def __init__(self) -> None:
        self._layers: dict[int, list[float]] = {}

    def add(self, layer: int, weights: Tensor, real: Tensor) -> None:
        """Count the weights of one call.

        Args:
            layer: place of the module.
            weights: `[batch, heads, queries, keys]`; those of hidden keys are 0.
            real: `[batch, queries]`, not 0 where a query is real.
        """
        kept = torch.where(real.bool()[:, None, :, None], weights.double(), 0.0)
        negative, absolute = -kept.clamp(max=0.0).sum(-1), kept.abs().sum(-1)
        sums = [float(each.sum()) for each in (negative, absolute, _entropy(negative, absolute))]
        self._count(layer, [*sums, int(real.bool().sum()) * weights.shape[1], 0.0, 0.0])

    def add_norms(self, layer: int, norms: Tensor, real: Tensor) -> None:
        """Count the norms of the outputs of one call, `[batch, queries]`."""
        self._count(layer, [0.0, 0.0, 0.0, 0.0, float((norms * real).sum()), int(real.bool().sum())])

    def _count(self, layer: int, new: list[float]) -> None:
        before = self._layers.get(layer, [0.0] * 6)
        self._layers[layer] = [total + more for total, more in zip(before, new, strict=True)]

    @property
    def places(self) -> list[int]:
        """Of the modules that were called, in the model's order."""
        return sorted(self._layers)

    def report(self, baseline: Sequence[float] | None = None) -> dict[str, Any]:
        """`overall` and `layers`, each with `negative_mass`, `weight_sum`, `sign_entropy` and, if there is a baseline, `output_norm`.

        Args:
            baseline: for each layer, the mean norm of its outputs to divide by.

        Raises:
            ValueError: nothing was counted, as of a model whose attention does not ask Transformers' attention interface.
        """
        if not self._layers:
            raise ValueError(
                "no attention weights were seen: no module of the model that was called asks Transformers' attention interface"
            )
        sums = [self._layers[place] for place in self.places]
        layers = [_ratios(each) for each in sums]
        overall = _ratios([sum(column) for column in zip(*sums, strict=True)])
        if baseline is not None:
            for layer, norm, before in zip(layers, self.norms(), baseline, strict=True):
                layer["output_norm"] = norm / before if before else 0.0
            overall["output_norm"] = sum(layer["output_norm"] for layer in layers) / len(layers)
        return {"overall": overall, "layers": layers}

    def norms(self) -> list[float]:
        """For each layer, the mean norm of its outputs."""
        return [sums[4] / sums[5] if sums[5] else 0.0 for sums in map(self._layers.__getitem__, self.places)]


class HealthCallback(TrainerCallback):
    """Measures the health of attention while a model trains, logs it layer by layer, and keeps it.

    Args:
        batches: inputs of the model, on any device.
        every: steps from one measurement to the next; the first and the last step are measured too.
        log: of the Trainer; what it is given reaches the log history and whatever the run reports to.
        baseline: as in `AttentionHealth.report`.
        options: of the model's forward pass.
    """

    def __init__(
        self, batches: Batches, *, every: int, log: Callable[[dict[str, float]], None], baseline: Sequence[float], **options: bool
    ) -> None:
        self.batches, self.every, self.log, self.baseline, self.options = batches, every, log, baseline, options

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure the model that training begins with."""
        if state.global_step == 0:
            self._measure(kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure every so often, and at the end."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            wanted = control.should_log  # logging clears it, and the loss of this step is still to come
            self._measure(kwargs["model"])
            control.should_log = wanted

    def _measure(self, model: PreTrainedModel) -> None:
        was_training = model.training
        report = attention_health(model, self.batches, baseline=self.baseline, **self.options)
        model.train(was_training)
        named = {"overall": report["overall"], **{f"layer_{index}": layer for index, layer in enumerate(report["layers"])}}
        self.log({f"health/{name}/{measure}": value for name, found in named.items() for measure, value in found.items()})


def attention_health(
    model: PreTrainedModel, batches: Iterable[dict[str, Tensor]], *, baseline: Sequence[float] | None = None, **options: bool
) -> dict[str, Any]:
    """Run a model over batches and report on its attention, with `polarity_per_head` `[layer][head]` if polarity is learned.

    A layer is an attention module that was called: of a decoder beside an encoder, self-attention and cross attention are two. `names` are
    their paths, where they are not all of one kind.

    Args:
        model: any model whose attention asks Transformers' interface, also inside PEFT; it is left in evaluation mode.
        batches: inputs of the model; labels are left out, unless a decoder reads them.
        baseline: as in `AttentionHealth.report`.
        **options: of the forward pass.
    """
    measured = _measured(model, batches, options)
    report = measured.report(baseline)
    paths = {module: path for path, module in model.named_modules()}
    names = [paths[module] for place, module in enumerate(attention_modules(model)) if place in measured.places]
    if len({re.sub(r"\d+", "*", name) for name in names}) > 1:
        report["names"] = names
    biases = [value for name, value in model.named_parameters() if name.endswith("tanhmax_score_bias")]
    if biases:
        report["polarity_per_head"] = [torch.exp(-2.0 * whole_parameter(bias).double()).tolist() for bias in biases]
    return report


def softmax_norms(model: PreTrainedModel, batches: Batches, **options: bool) -> list[float]:
    """For each layer, the mean norm of the outputs that softmax gives with the weights of a model: the baseline.

    Of a checkpoint whose projections belong to another polarity (refitted), which has no softmax any more, those that it gives itself.
    """
    config = model.config
    has_softmax = isinstance(config, TanhMaxFields) and config.tanhmax_refitted_polarity is None
    softmax = tanhmax_on(model, polarity=0.0) if has_softmax else nullcontext()
    with softmax:
        return _measured(model, batches, options).norms()


def health_curve(history: Iterable[dict[str, float]]) -> list[dict[str, object]]:
    """What `HealthCallback` logged, as `{"step", "overall", "layers"}` for each measurement."""
    curve: list[dict[str, object]] = []
    for record in history:
        found: dict[str, dict[str, float]] = {}
        for key, value in record.items():
            if key.startswith("health/"):
                _, name, measure = key.split("/")
                found.setdefault(name, {})[measure] = value
        if found:
            layers = [found[f"layer_{index}"] for index in range(len(found) - 1)]
            curve.append({"step": record["step"], "overall": found["overall"], "layers": layers})
    return curve


def whole_parameter(parameter: nn.Parameter) -> Tensor:
    """The values of a parameter, without gradient, gathered where processes share it out; then every process must ask for it.

    FSDP 2 and tensor parallelism share it out as a DTensor; DeepSpeed's ZeRO-3 leaves an empty tensor in its place while no module
    computes with it.
    """
    shared: Any = parameter
    if hasattr(shared, "full_tensor"):
        return shared.detach().full_tensor()
    if hasattr(shared, "ds_id"):
        with import_module("deepspeed").zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter.detach()


def _measured(model: PreTrainedModel, batches: Iterable[dict[str, Tensor]], options: dict[str, bool]) -> AttentionHealth:
    health, modules = AttentionHealth(), attention_modules(model)
    readers = _readers(model, modules)
    model.eval()
    with torch.no_grad(), _eager(model):
        for batch in batches:
            inputs = {key: value.to(model.device) for key, value in batch.items() if key != "labels" or _reads_labels(model, batch)}
            with _counting(modules, health, [_mask_of(reader, inputs) for reader in readers]):
                model(**inputs, **options)
    return health


def _readers(model: PreTrainedModel, modules: list[nn.Module]) -> list[str]:
    """For each attention module, the input that says which of its queries are real; an empty name where none does, as of images."""
    names, is_both = dict.fromkeys(modules, "attention_mask"), getattr(model.config, "is_encoder_decoder", False)
    if is_both:
        names = dict.fromkeys(modules, "decoder_attention_mask") | dict.fromkeys(attention_modules(model.get_encoder()), "attention_mask")
    for part in model.modules():  # from the outside in
        if isinstance(part, PreTrainedModel) and modality(part) != "text" and (part is not model or not is_both):
            names |= dict.fromkeys(attention_modules(part), "")
    return [names[module] for module in modules]


def _reads_labels(model: PreTrainedModel, batch: dict[str, Tensor]) -> bool:
    """Whether the decoder of a model gets its inputs from the labels."""
    return bool(getattr(model.config, "is_encoder_decoder", False)) and model.can_generate() and "decoder_input_ids" not in batch


def _mask_of(reader: str, inputs: dict[str, Tensor]) -> Tensor | None:
    if reader == "decoder_attention_mask" and reader not in inputs and "labels" in inputs:
        return inputs["labels"] != IGNORED
    return inputs.get(reader)


@contextmanager
def _counting(modules: list[nn.Module], health: AttentionHealth, masks: list[Tensor | None]) -> Iterator[None]:
    """Count the weights and outputs of every call of attention modules."""

    def _real(place: int, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        mask = masks[place]
        return mask if mask is not None and tuple(mask.shape) == shape else torch.ones(shape, device=like.device)

    def _weighing(place: int) -> AttentionFunction:
        def _attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
            output, weights = call.compute_with_weights()
            health.add(place, weights, _real(place, weights, (weights.shape[0], weights.shape[2])))
            return output, weights

        return _attend

    def _hook(place: int) -> Callable[[nn.Module, object, Any], None]:
        def _count(_: nn.Module, __: object, output: Any) -> None:
            norms = (output if isinstance(output, Tensor) else output[0]).double().norm(dim=-1)
            health.add_norms(place, norms, _real(place, norms, tuple(norms.shape)))

        return _count

    hooks = [module.register_forward_hook(_hook(place)) for place, module in enumerate(modules)]
    try:
        with replace_attention(modules, [_weighing(place) for place in range(len(modules))]):
            yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """Attention that returns its weights, for as long as they are measured."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _entropy(negative: Tensor, absolute: Tensor) -> Tensor:
    """Bits, of the shares of both signs."""
    share = torch.where(absolute > 0, negative / absolute, 0.0)
    return -(torch.special.xlogy(share, share) + torch.special.xlogy(1 - share, 1 - share)) / torch.log(torch.tensor(2.0))


def _ratios(sums: list[float]) -> dict[str, float]:
    negative, absolute, entropy, queries = sums[:4]
    return {
        "negative_mass": negative / absolute if absolute else 0.0,
        "weight_sum": absolute / queries if queries else 0.0,
        "sign_entropy": entropy / queries if queries else 0.0,
    }
