"""Does a model use its negative attention weights? Its quality with them as they are, and with interventions on them, row by row."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...ablation import ACCURACY, LEVEL, LOSS, Effect, NegativesAblation
from ...checkpoint import text_config
from ...choices import INTERVENTIONS, check_choice
from ...integration.chosen_modules import modules_by_layer
from ...integration.hooks import AttentionCall, AttentionFunction, is_signed, replace_attention
from ...integration.patching import attention_modules
from ...models.bundle import own_version
from ...settings import TanhMaxSettings
from ..attribution.evaluation_mode import check_finite, check_recordable, display_name, evaluation_mode, unwrap
from ..attribution.forward_passes import without_cache
from ..attribution.target import logits_of
from ..inputs.encoding import ImageProcessor, ModelInput
from .interventions import intervention
from .labelled_rows import IGNORED, LabelledRow, RowEncoder, batches, separated

AS_IS = "as_is"
CHUNK = 100  # bootstrap samples that are drawn together
Array = NDArray[numpy.float64]


def ablate_negatives(
    model: nn.Module,
    rows: Sequence[ModelInput],
    processor: PreTrainedTokenizerBase | ImageProcessor | None = None,
    *,
    labels: Sequence[int | str] | None = None,
    interventions: Iterable[str] = tuple(INTERVENTIONS),
    batch_size: int = 32,
    samples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> NegativesAblation:
    """Measure what becomes of a model when its negative attention weights are changed; `interventions` defines the changes.

    The head of the model says what is measured: accuracy of a classifier, loss per token of a causal language model, or that of the 15 % of
    the tokens of each text that a masked language model has to fill in. Every difference has an interval of 95 % by a paired bootstrap:
    rows are drawn with replacement, and the model as it is and with the intervention are measured on the same rows.

    Args:
        model: a Transformers model that computes TanhMax in at least one layer; evaluated without dropout, and put back as it was.
        rows: texts (longer ones are cut to what the model reads), pairs of texts, or PIL images; or encoded batches, whose `labels`, if
            they have any, are what is to be predicted. Rows of equal length are run together: nothing is padded, and padding is cut off.
        processor: tokenizer or image processor of the model; None for encoded batches.
        labels: of a classifier, the class of every row, by name or number.
        interventions: names, of `hf_tanhmax.choices.INTERVENTIONS`.
        batch_size: the most rows of a forward pass; fewer where logits of a language model would be larger than 256 MiB.
        samples: of the bootstrap.
        seed: of the bootstrap, of permutations and of the tokens that are masked; the batch size changes none of them.
        progress: whether to show a bar.

    Raises:
        ValueError: a model without negative weights or with a head whose quality is not known; no rows, rows of another modality or without
            labels; an intervention that does not exist, or a number that is not positive. Errors of a row name it.
        TypeError: what is given is no model, or rows that are no list.
    """
    names = [interventions] if isinstance(interventions, str) else list(dict.fromkeys(interventions))
    check_choice("intervention", names, INTERVENTIONS)
    for name, number in (("batch_size", batch_size), ("samples", samples)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, but is {number}")
    inner = unwrap(model)
    check_recordable(inner)
    _check_signed(inner)
    encoder = RowEncoder(inner, processor, seed)
    given = separated(rows, labels)
    with evaluation_mode(inner), torch.no_grad(), tqdm(total=len(given), unit="row", disable=not progress) as bar:
        run = _Ablation(inner, encoder, names, seed)
        for batch in _batches(encoder, given, batch_size):
            run.measure(batch)
            bar.update(len(batch))
    return run.result({"batch_size": batch_size, "samples": samples, "seed": seed})


def paired_intervals(totals: dict[str, Array], counts: Array, *, samples: int, seed: int) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of differences of ratios: sum(total) / sum(count) of each name less that of `"as_is"`.

    Args:
        totals: by name, one number per row.
        counts: of what the totals are sums of, per row.
        samples: how often rows are drawn.
        seed: of the draws.
    """
    generator, rows = numpy.random.default_rng(seed), len(counts)
    differences: dict[str, list[Array]] = {name: [] for name in totals if name != AS_IS}
    for start in range(0, samples, CHUNK):
        drawn = generator.multinomial(rows, numpy.full(rows, 1 / rows), size=min(CHUNK, samples - start)).astype(float)
        whole = drawn @ counts
        for name, found in differences.items():
            found.append(drawn @ (totals[name] - totals[AS_IS]) / whole.clip(min=1e-300))
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    quantiles = {name: numpy.quantile(numpy.concatenate(found), tails) for name, found in differences.items()}
    return {name: (float(low), float(high)) for name, (low, high) in quantiles.items()}


def _check_signed(model: PreTrainedModel) -> None:
    if not any(is_signed(module.config) for module in attention_modules(model)):
        polarity = getattr(model.config, "tanhmax_polarity", None)
        reason = "its polarity is 0, which is softmax" if polarity == 0 else "its attention is softmax"
        raise ValueError(f"{type(model).__name__} has no negative weights to change: {reason}; give a TanhMax model")


def _batches(encoder: RowEncoder, given: list[tuple[ModelInput, int | str | None]], batch_size: int) -> Iterator[list[LabelledRow]]:
    """Batches of encoded rows; images, which have one size, are encoded as they are needed, as together they may be large."""
    vocabulary = 1 if encoder.classifies else text_config(encoder.model).vocab_size
    step = batch_size if encoder.reads_images else len(given)
    for start in range(0, len(given), step):
        part = given[start : start + step]
        yield from batches([encoder.row(start + place, *each) for place, each in enumerate(part)], batch_size, vocabulary)


class _Ablation:
    """Sums over rows, for the model as it is and for every intervention."""

    def __init__(self, model: PreTrainedModel, encoder: RowEncoder, names: list[str], seed: int) -> None:
        self.model, self.encoder, self.names, self.seed = model, encoder, names, seed
        self.modules = attention_modules(model)
        self.signed = [place for place, module in enumerate(self.modules) if is_signed(module.config)]
        layers = list(modules_by_layer(model).values())
        self.layer_of = [next(number for number, layer in enumerate(layers) if module in layer) for module in self.modules]
        self.mass = numpy.zeros((len(layers), 2))  # per layer, the negative and the absolute weight
        self.counts: dict[int, float] = {}
        self.totals: dict[str, dict[int, float]] = {name: {} for name in (AS_IS, *names)}

    def measure(self, rows: list[LabelledRow]) -> None:
        """Run a batch once as it is and once for each intervention."""
        joined = {name: torch.cat([row.inputs[name] for row in rows]) for name in rows[0].inputs}
        labels = torch.cat([row.labels for row in rows])
        with replace_attention(self.modules, [self._weighing(place) for place in range(len(self.modules))]):
            self._keep(AS_IS, rows, joined, labels)
        modules = [self.modules[place] for place in self.signed]
        for name in self.names:
            functions = [intervention(name, [(self.seed, row.index, place) for row in rows]) for place in self.signed]
            with replace_attention(modules, functions):
                self._keep(name, rows, joined, labels)

    def result(self, settings: dict[str, object]) -> NegativesAblation:
        """Metrics and intervals.

        Raises:
            ValueError: there was nothing to predict.
        """
        order = [index for index in sorted(self.counts) if self.counts[index]]
        if not order:
            raise ValueError("no row has a token that is to be predicted; give longer texts, or labels that are not -100")
        counts = numpy.array([self.counts[index] for index in order])
        totals = {name: numpy.array([found[index] for index in order]) for name, found in self.totals.items()}
        values = {name: float(found.sum() / counts.sum()) for name, found in totals.items()}
        intervals = paired_intervals(totals, counts, samples=int(str(settings["samples"])), seed=self.seed)
        negative, absolute = self.mass.sum(0)
        return NegativesAblation(
            model=display_name(self.model),
            attention=self._attention(),
            metric=ACCURACY if self.encoder.classifies else LOSS,
            rows=len(order),
            as_is=values[AS_IS],
            effects={name: Effect(values[name], values[name] - values[AS_IS], *intervals[name]) for name in self.names},
            negative_mass=float(negative / absolute) if absolute else 0.0,
            negative_mass_per_layer=tuple(float(part / whole) if whole else 0.0 for part, whole in self.mass),
            settings={
                **settings,
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "hf-tanhmax": own_version()},
            },
        )

    def _weighing(self, place: int) -> AttentionFunction:
        def _attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
            output, weights = call.compute_with_weights()
            exact = weights.double()
            self.mass[self.layer_of[place]] += float(-exact.clamp(max=0).sum()), float(exact.abs().sum())
            return output, weights

        return _attend

    def _keep(self, name: str, rows: list[LabelledRow], inputs: dict[str, Tensor], labels: Tensor) -> None:
        logits = logits_of(self.model(**inputs, **without_cache(self.model)), self.model)
        check_finite(self.model, {"logits": logits})
        totals, counts = _outcomes(logits, labels, is_causal=self.encoder.is_causal)
        self.totals[name].update(zip((row.index for row in rows), totals.tolist(), strict=True))
        self.counts.update(zip((row.index for row in rows), counts.tolist(), strict=True))

    def _attention(self) -> str:
        """Settings in words, of a patched model those of its first signed layer."""
        own = getattr(self.model.config, "tanhmax_settings", None)
        if isinstance(own, TanhMaxSettings):
            return own.describe(layers=len(self.mass))
        config = self.modules[self.signed[0]].config
        signed = tuple(dict.fromkeys(self.layer_of[place] for place in self.signed))
        layers = None if len(signed) == len(self.mass) else signed
        found: dict[str, Any] = {name: getattr(config, f"tanhmax_{name}", None) for name in ("heads", "shift")}
        return TanhMaxSettings(polarity=getattr(config, "tanhmax_polarity", 1.0), layers=layers, **found).describe(layers=len(self.mass))


def _outcomes(logits: Tensor, labels: Tensor, *, is_causal: bool) -> tuple[Tensor, Tensor]:
    """Per row the sum that the metric is the mean of, and of how many: right answers of 1, or losses of the tokens; float64 `[rows]`."""
    if logits.dim() == 2:
        return (logits.argmax(-1) == labels).double(), torch.ones(len(labels), dtype=torch.float64)
    if is_causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
    losses = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.double().view(labels.shape).sum(1), (labels != IGNORED).sum(1).double()
