"""Statistics of signed attention per layer: the share that is negative, the sum of the weights, the norm of the output.

Over the weights w of real (not padded) queries and keys of one layer:

* negative mass n = sum of |w| where w < 0, divided by sum of |w|; softmax has 0, and a balanced shift of polarity p brings up to
  p / (1 + p) by itself, so that there it does not say that signs were learned
* weight sum = sum over keys of |w|, mean over heads and queries; softmax has 1, TanhMax at most 1, and 0 is attention that does nothing
* sign entropy = -n log2 n - (1 - n) log2 (1 - n) of each head and query, in bits, mean over them: 1 where both signs weigh the same, 0
  where a query uses one sign only
* output norm = mean L2 norm of what the attention module returns, over that of the same weights under softmax before training
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..integration.patching import attention_modules, tanhmax_on
from ..models.family import TanhMaxFields

Batches = Sequence[dict[str, Tensor]]
MEASURES = ("negative_mass", "weight_sum", "sign_entropy", "output_norm")


class AttentionHealth:
    """Sums over batches, layer by layer."""

    def __init__(self) -> None:
        self._layers: list[list[float]] = []

    def add(self, attentions: Iterable[Tensor], real: Tensor, norms: Iterable[float] | None = None) -> None:
        """Count one batch.

        Args:
            attentions: for each layer, weights `[batch, heads, queries, keys]`.
            real: `[batch, length]`, not 0 where a token is real.
            norms: for each layer, the sum of the norms of its outputs over the real tokens.
        """
        real = real.bool()
        pairs = real[:, None, :, None] & real[:, None, None, :]
        loud = list(norms or [])
        for index, weights in enumerate(attentions):
            if index == len(self._layers):
                self._layers.append([0.0] * 6)
            kept = torch.where(pairs, weights.double(), 0.0)
            negative, absolute = -kept.clamp(max=0.0).sum(-1), kept.abs().sum(-1)
            tokens, queries = int(real.sum()), int(real.sum()) * weights.shape[1]
            sums = [float(each.sum()) for each in (negative, absolute, _entropy(negative, absolute))]
            counted = [*sums, queries, loud[index] if loud else 0.0, tokens]
            self._layers[index] = [total + new for total, new in zip(self._layers[index], counted, strict=True)]

    def report(self, baseline: Sequence[float] | None = None) -> dict[str, Any]:
        """`overall` and `layers`, each with `negative_mass`, `weight_sum`, `sign_entropy` and, if there is a baseline, `output_norm`.

        Args:
            baseline: for each layer, the mean norm of its outputs to divide by.

        Raises:
            ValueError: nothing was counted, as with attention that returns no weights.
        """
        if not self._layers:
            raise ValueError('the model returned no attention weights; load it with attn_implementation="eager"')
        layers = [_ratios(sums) for sums in self._layers]
        overall = _ratios([sum(column) for column in zip(*self._layers, strict=True)])
        if baseline is not None:
            for layer, norm, before in zip(layers, self.norms(), baseline, strict=True):
                layer["output_norm"] = norm / before if before else 0.0
            overall["output_norm"] = sum(layer["output_norm"] for layer in layers) / len(layers)
        return {"overall": overall, "layers": layers}

    def norms(self) -> list[float]:
        """For each layer, the mean norm of its outputs."""
        return [sums[4] / sums[5] if sums[5] else 0.0 for sums in self._layers]


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

    Args:
        model: any model with attention weights to show, also inside PEFT; it is left in evaluation mode.
        batches: inputs of the model; labels are left out.
        baseline: as in `AttentionHealth.report`.
        **options: of the forward pass.
    """
    report = _measured(model, batches, options).report(baseline)
    biases = [value for name, value in model.named_parameters() if name.endswith("tanhmax_score_bias")]
    if biases:
        report["polarity_per_head"] = [torch.exp(-2.0 * bias.detach().double()).tolist() for bias in biases]
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


def _measured(model: PreTrainedModel, batches: Iterable[dict[str, Tensor]], options: dict[str, bool]) -> AttentionHealth:
    health = AttentionHealth()
    model.eval()
    with torch.no_grad(), _eager(model), _output_norms(model) as outputs:
        for batch in batches:
            inputs = {key: value.to(model.device) for key, value in batch.items() if key != "labels"}
            outputs.clear()
            attentions = model(**inputs, output_attentions=True, **options).attentions
            if not attentions:
                continue  # the report will say so
            real = inputs.get("attention_mask")
            if real is None:
                real = attentions[0].new_ones(attentions[0].shape[0], attentions[0].shape[2])
            norms = [float((norm * real).sum()) for norm in outputs]
            health.add(attentions, real, norms)
    return health


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """Attention that returns its weights, for as long as they are measured."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def _output_norms(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that every forward pass fills with the norms `[batch, length]` of each attention module's output."""
    found: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: found.append(output[0].double().norm(dim=-1)))
        for module in attention_modules(model)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


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
