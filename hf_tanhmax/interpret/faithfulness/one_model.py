"""One model of a comparison: what it can serve, and the parts of the work, each of which a process can do by itself."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...choices import METHODS
from ...errors import one_line
from ..attribution.decomposition.scores import reason_against
from ..attribution.evaluation_mode import evaluation_mode, resolve_layers, unwrap
from ..attribution.forward_passes import target_logits
from ..attribution.integrated_gradients import baseline_token
from ..attribution.methods import Attribution, AttributionOptions, attribute
from ..inputs.loading import Loaded
from .heads import ablate_heads
from .measuring import OF_MODEL, SEEDED_METHODS, EvaluationOptions, Job, Measured, Measuring, Targeted, computed
from .metrics import MEASURES

LONGEST = 200  # characters of a reason
CLOSE = 1e-3  # how far logits may differ that are computed with other numbers of threads


class Part(NamedTuple):
    """A part of the work of a comparison.

    Attributes:
        model: its name.
        number: of the part among those of its model; None for leaving out heads.
        texts: by their index.
        jobs: what is measured of them; empty for leaving out heads.
    """

    model: str
    number: int | None
    texts: dict[int, Targeted]
    jobs: tuple[Job, ...]


class OneModel:
    """One model of a comparison.

    Args:
        name: in the comparison.
        loaded: the model and what makes its inputs.
        methods: that are compared.
        options: how to measure.
        explained: numbers of `AttributionOptions`: `max_length`, `steps` and `samples`.
    """

    def __init__(
        self, name: str, loaded: Loaded, methods: tuple[str, ...], options: EvaluationOptions, explained: Mapping[str, int | None]
    ) -> None:
        self.name, self.loaded, self.methods, self.options, self.explained = name, loaded, methods, options, dict(explained)
        self.model = unwrap(loaded.model)
        numbers: dict[str, Any] = self.explained
        attribution = AttributionOptions(
            computed(methods),
            resolve_layers(self.model),
            baseline_token(self.model, loaded.tokenizer),
            loaded.tokenizer,
            loaded.processor,
            None,
            numbers["max_length"],
            numbers["steps"],
            True,
            numbers["samples"],
        )
        self.measuring = Measuring(self.model, attribution, options, apart=True)
        self.first: Attribution | None = None
        self.logits = torch.empty(0)

    def unavailable(self, first: Targeted) -> dict[str, str]:
        """The methods that cannot be had of this model, and why; the first text tells, if it can be explained at all."""
        text, target = first
        with evaluation_mode(self.model):
            try:
                attribution = attribute(self.model, text, target, self.measuring.with_methods(METHODS[:1]))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{self.name}: text 0: {error}") from error
            self.measuring.signed = attribution.result.signed
            self.first, self.logits = attribution, self._logits_of(attribution)
            positions = len(attribution.encoded.content_positions)
            reasons: dict[str, str] = {}
            for method in computed(self.methods):
                try:
                    attribute(self.model, text, target, self.measuring.with_methods((method,), positions=positions))
                except (ImportError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
                    reasons[method] = one_line(error, LONGEST) if (known := reason_against(self.model, method)) is None else known
        return reasons

    def check_copy(self) -> None:
        """Refuse a copy in another process that computes something else: functions that were replaced at run time are not sent along.

        Raises:
            RuntimeError: the logits of the first text are others than before it was sent.
        """
        if self.first is None:
            return
        with evaluation_mode(self.model):
            found = self._logits_of(self.first)
        if not torch.allclose(found, self.logits, rtol=CLOSE, atol=CLOSE, equal_nan=True):
            raise RuntimeError(
                f"{self.name} computes something else in another process (the largest difference of a logit of text 0 is "
                f"{(found - self.logits).abs().max():.3g}): code that is replaced at run time stays behind; leave workers at 1"
            )

    @torch.no_grad()
    def _logits_of(self, attribution: Attribution) -> Tensor:
        return target_logits(self.model, attribution.encoded.inputs, [attribution.result.target.position]).float().cpu()

    def measure(self, part: Part, move: Callable[[float], object]) -> Measured:
        """The values of a part of the texts.

        Args:
            part: with jobs.
            move: called with the number of texts done, in parts.

        Raises:
            ValueError, TypeError, ImportError: as `explain`, with the index of the text.
        """
        with evaluation_mode(self.model):
            return self.measuring.measure(part.texts, part.jobs, move)

    def heads(self, part: Part) -> dict[str, Any]:
        """What leaving out each head does, as `HeadAblation.to_dict` has it."""
        texts, targets = zip(*[part.texts[index] for index in sorted(part.texts)], strict=True)
        with evaluation_mode(self.model):
            return ablate_heads(
                self.model,
                self.loaded.tokenizer,
                texts,
                targets=targets,
                processor=self.loaded.processor,
                batch_size=self.options.batch_size,
                max_length=self.explained["max_length"],
                progress=False,
            ).to_dict()


def jobs_of(methods: Sequence[str], measures: Sequence[str], seeds: int) -> list[Job]:
    """What is measured of each text: with the first seed everything, with the others what a seed enters."""
    jobs = []
    for method in (*methods, OF_MODEL):
        of_method = tuple(name for name in measures if MEASURES[name].of_model == (method == OF_MODEL))
        for seed in range(seeds):
            chosen = of_method if seed == 0 or method in SEEDED_METHODS else tuple(name for name in of_method if MEASURES[name].of_seed)
            if chosen:
                jobs.append(Job(method, seed, chosen))
    return jobs
