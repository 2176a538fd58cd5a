"""How far explanations of a model can be trusted: several methods by several measures, over many texts, in one batched run."""

from collections.abc import Sequence
from functools import partial

import torch
import transformers
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ...choices import CONTROL, METHODS
from ..attribution.evaluation_mode import display_name, evaluation_mode, resolve_layers, unwrap
from ..attribution.integrated_gradients import baseline_token
from ..attribution.methods import AttributionOptions
from ..attribution.removal import SAMPLES
from ..inputs.encoding import ImageProcessor, ModelInput
from .heads import HeadAblation, ablate_heads
from .intervals import mean_with_interval
from .measuring import OF_MODEL, EvaluationOptions, Job, Measured, Measuring, available_measures, chunks, computed
from .metrics import MEASURES
from .perturbation import BAR_FORMAT, advance
from .report import FaithfulnessReport

DEFAULT_METHODS = ("weights", "oriented", "contributions", "rollout", "integrated_gradients", "random")


def faithfulness(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    texts: Sequence[ModelInput],
    methods: tuple[str, ...] = DEFAULT_METHODS,
    measures: tuple[str, ...] | None = None,
    *,
    targets: Sequence[int | str | None] | None = None,
    processor: ImageProcessor | None = None,
    layers: int | Sequence[int] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    removal: str = "deletion",
    draws: int = 20,
    max_length: int | None = None,
    steps: int = 32,
    samples: int = SAMPLES,
    head_texts: int = 0,
    progress: bool = True,
) -> FaithfulnessReport:
    """Measure how faithful the scores of several methods are to a model, TanhMax or softmax; `metrics` defines the measures.

    Perturbed copies that several methods or measures need are run once, in full batches over several texts. The result does not depend on
    the batch size beyond rounding, and random numbers come from the seed alone.

    Args:
        model: as for `explain`.
        tokenizer: of the model; None for images.
        texts: texts, or whatever else `explain` takes as inputs.
        methods: scores to compare, of `METHODS`, and `"random"`: normal numbers, which show what chance achieves.
        measures: names, of `MEASURES`; None is all that the inputs allow, as nothing can be deleted from an image.
        targets: one per text; None explains what the model predicts.
        processor: image processor, for PIL images.
        layers: attention layers that are explained, erased and shuffled; None is all.
        batch_size: copies per forward pass.
        seed: of random scores, shuffles, random weights and the bootstrap.
        removal: how comprehensiveness and sufficiency take positions away, `"deletion"` or `"mask"`; images have only `"mask"`.
        draws: shuffled and random copies per text.
        max_length: cuts longer texts.
        steps: of integrated gradients.
        samples: of KernelSHAP, the most subsets to run.
        head_texts: of how many texts, from the first, every head is left out too, as `ablate_heads` does; the report has it as `heads`.
        progress: whether to show a bar.

    Raises:
        ValueError, TypeError, ImportError: as `explain`, with the index of the text; or options that do not exist.
    """
    if isinstance(texts, str) or not len(texts):
        raise ValueError("texts must be a list of at least one text")
    if isinstance(methods, str) or not methods:
        raise ValueError(f"methods must be a tuple of names, of {', '.join((*METHODS, CONTROL))}")
    if head_texts < 0:
        raise ValueError(f"head_texts must be 0 or more, but is {head_texts}")
    options = EvaluationOptions(available_measures(texts) if measures is None else measures, batch_size, removal, draws)
    targets = [None] * len(texts) if targets is None else list(targets)
    if len(targets) != len(texts):
        raise ValueError(f"there are {len(targets)} targets for {len(texts)} texts; give one for each, or None")
    inner = unwrap(model)
    indices, baseline = resolve_layers(inner, layers), baseline_token(inner, tokenizer)
    encoding = (tokenizer, processor, None, max_length)
    attribution = AttributionOptions(computed(methods), indices, baseline, *encoding, steps, layers is None, samples, seed)
    measuring = Measuring(inner, attribution, options)
    of_model = [name for name in options.measures if MEASURES[name].of_model]
    of_scores = tuple(name for name in options.measures if name not in of_model)
    jobs = [*(Job(method, seed, of_scores) for method in methods), Job(OF_MODEL, seed, tuple(of_model))]
    with evaluation_mode(inner), tqdm(total=len(texts), unit="text", bar_format=BAR_FORMAT, disable=not progress) as bar:
        given = dict(enumerate(zip(texts, targets, strict=True)))
        found = [measuring.measure({index: given[index] for index in chunk}, jobs, partial(advance, bar)) for chunk in chunks(texts)]
    heads = None
    if head_texts:
        heads = ablate_heads(
            inner,
            tokenizer,
            texts[:head_texts],
            targets=targets[:head_texts],
            processor=processor,
            layers=layers,
            batch_size=batch_size,
            max_length=max_length,
            progress=progress,
        )
    return _report(measuring, tuple(methods), jobs, found, seed, heads)


def _report(
    measuring: Measuring, methods: tuple[str, ...], jobs: Sequence[Job], found: Sequence[Measured], seed: int, heads: HeadAblation | None
) -> FaithfulnessReport:
    """Values and means of all texts."""
    values: dict[str, dict[str, tuple[float, ...]]] = {name: {} for name in measuring.options.measures}
    for job in jobs:
        for name in job.measures:
            by_text = {index: value for part in found for index, value in part.values[job][name].items()}
            values[name][job.method] = tuple(by_text[index] for index in sorted(by_text))
    cells = {name: {method: mean_with_interval(each, seed) for method, each in by_method.items()} for name, by_method in values.items()}
    settings = {
        "texts": sum(len(part.targets) for part in found),
        "copies": sum(part.copies for part in found),
        "layers": measuring.attribution.layers,
        "seed": seed,
        "removal": measuring.options.removal,
        "draws": measuring.options.draws,
        "steps": measuring.attribution.steps,
        "samples": measuring.attribution.samples,
        "max_length": measuring.attribution.max_length,
        "baseline": measuring.attribution.baseline,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    name = display_name(measuring.model)
    return FaithfulnessReport(name, measuring.signed, methods, measuring.options.measures, values, cells, settings, heads)
