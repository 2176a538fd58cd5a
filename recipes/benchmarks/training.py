"""How long a training step takes: BERT-base, ViT-B and a LLaMA of 1B shape, TanhMax and softmax side by side, and only if TanhMax is right.

python -m recipes.benchmarks.training [--models bert vit llama] [--dtype bfloat16] [--rounds 20]
    [--output recipes/results/training-cuda.json]
python -m recipes.benchmarks.training --dry-run

A step is forward, backward and AdamW on random inputs; weights are random, as speed does not hang on them. Softmax is Transformers' own
`sdpa`. Each round takes one step of both models, in an order that alternates; a ratio is of two times of the same round. A dry run
rehearses it on the CPU with tiny models, and measures nothing.
"""

import gc
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
)

import hf_tanhmax
from hf_tanhmax.provenance import git_commit
from hf_tanhmax.results import table, write_json

from ..command_line import Parser
from .generate import DRY_RUN, SHAPES, VOCABULARY
from .measure import CudaMeter, Meter, ProcessorMeter, gpu_environment, percentiles

MODELS = ("TanhMax", "softmax")
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # largest relative error of logits, fast path against reference
WARM_UP = 3  # steps: kernels are compiled, and AdamW makes its state
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


@dataclass(frozen=True)
class Shape:
    """A model and what it is trained on, as large as in practice and as small as for a rehearsal.

    Attributes:
        title: for the table.
        config: what to build, by whether it is small.
        auto: the Auto class that builds it.
        batch: inputs of a step.
        length: tokens of each, or pixels of each side.
        target: the largest ratio to softmax that is aimed at.
    """

    title: str
    config: Callable[[bool], PreTrainedConfig]
    auto: Any
    batch: int
    length: int
    target: float

    def inputs(self, config: PreTrainedConfig, *, small: bool) -> dict[str, Tensor]:
        """A random batch with labels, the same each time."""
        made = torch.Generator().manual_seed(0)
        batch, length = (2, 16) if small else (self.batch, self.length)
        if config.model_type == "vit":
            pixels = torch.randn(batch, 3, length, length, generator=made)
            return {"pixel_values": pixels, "labels": torch.randint(2, (batch,), generator=made)}
        tokens = torch.randint(config.vocab_size, (batch, length), generator=made)
        labels = tokens if config.model_type == "llama" else torch.randint(2, (batch,), generator=made)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}


def _llama(small: bool) -> PreTrainedConfig:
    name = "tiny" if small else "1B"
    return LlamaConfig(**SHAPES[name], vocab_size=VOCABULARY[name], max_position_embeddings=2**13, tie_word_embeddings=True)


def _vit(small: bool) -> PreTrainedConfig:
    return ViTConfig(**SMALL, image_size=16, patch_size=4) if small else ViTConfig()


TRAINED = {
    "bert": Shape(
        "BERT-base, 512 tokens",
        lambda small: BertConfig(**SMALL, vocab_size=64) if small else BertConfig(),
        AutoModelForSequenceClassification,
        batch=32,
        length=512,
        target=1.10,
    ),
    "vit": Shape("ViT-B/16, 224 pixels", _vit, AutoModelForImageClassification, batch=128, length=224, target=1.10),
    "llama": Shape("LLaMA of 1B, 4096 tokens", _llama, AutoModelForCausalLM, batch=4, length=4096, target=1.15),
}


@dataclass(frozen=True)
class TrainingPlan:
    """What to run."""

    device: str = "cuda"
    dtype: str = "bfloat16"
    models: tuple[str, ...] = tuple(TRAINED)
    rounds: int = 20

    @property
    def small(self) -> bool:
        """Whether it is a rehearsal."""
        return self.device != "cuda"

    def meter(self) -> Meter:
        """Its clock."""
        return ProcessorMeter() if self.small else CudaMeter()


DRY = TrainingPlan("cpu", "float32", rounds=1)


class Steps:
    """A model in training, a batch and its optimizer.

    Args:
        model: as `built` gives it.
        inputs: on the model's device, labels included.
    """

    def __init__(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
        self.model, self.inputs = model.train(), inputs
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def __call__(self) -> None:
        """One step."""
        self.model(**self.inputs).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def built(shape: Shape, plan: TrainingPlan) -> tuple[dict[str, PreTrainedModel], dict[str, Tensor]]:
    """Both models with the same random weights and without dropout, and a batch."""
    found = {}
    for name in MODELS:
        torch.manual_seed(0)
        config = shape.config(plan.small)
        for dropout in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if hasattr(config, dropout):
                setattr(config, dropout, 0.0)
        model = shape.auto.from_config(config, attn_implementation="sdpa", dtype=getattr(torch, plan.dtype)).to(plan.device)
        if name == "TanhMax":
            hf_tanhmax.use_tanhmax(model)
        found[name] = model
    inputs = shape.inputs(found["softmax"].config, small=plan.small)
    exact = {name: value.to(getattr(torch, plan.dtype)) if value.is_floating_point() else value for name, value in inputs.items()}
    return found, {name: value.to(plan.device) for name, value in exact.items()}


def gate(model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    """Compare logits of two inputs, and the gradient that reaches the embeddings or the first layer, fast path against reference.

    Raises:
        SystemExit: they differ.
    """
    few = {name: value[:2, :256] if value.dim() == 2 else value[:2] for name, value in inputs.items()}
    first = next(parameter for parameter in model.parameters() if parameter.dim() > 1)
    found = []
    for name in ("sdpa", "eager"):
        model.set_attn_implementation(name)
        output = model.eval()(**few)
        (gradient,) = torch.autograd.grad(output.loss, [first])
        found.append((output.logits.detach().double(), gradient.double()))
    model.set_attn_implementation("sdpa")
    for what, fast, expected in zip(("logits", "gradients"), *found, strict=True):
        error = ((fast - expected).norm() / expected.norm()).item()
        if not error <= LIMITS[model.dtype]:
            sys.exit(f"training is wrong: {what} are off by {error:.1e}; nothing was timed")


def timed(name: str, plan: TrainingPlan, meter: Meter) -> list[dict[str, Any]]:
    """A row for TanhMax and a row for softmax."""
    models, inputs = built(TRAINED[name], plan)
    gate(models["TanhMax"], inputs)
    steps = {each: Steps(model, inputs) for each, model in models.items()}
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    times: dict[str, list[float]] = {each: [] for each in MODELS}
    for round_ in range(plan.rounds):
        for each in MODELS if round_ % 2 == 0 else MODELS[::-1]:
            started = meter.start()
            steps[each]()
            times[each].append(meter.milliseconds(started))
    ratios = percentiles([one / other for one, other in zip(times["TanhMax"], times["softmax"], strict=True)])
    over = dict(zip(("p20", "p50", "p80"), ratios, strict=True))
    return [
        {
            "shape": name,
            "model": each,
            "batch": len(inputs["labels"]),
            "milliseconds": percentiles(times[each])[1],
            "memory_mib": meter.extra_memory(steps[each]),
            "over_softmax": over if each == "TanhMax" else None,
        }
        for each in MODELS
    ]


def training_speed(plan: TrainingPlan) -> dict[str, Any]:
    """Every model.

    Raises:
        SystemExit: TanhMax is wrong.
    """
    result: dict[str, Any] = {"benchmark": "training", "dry_run": plan.small, "plan": asdict(plan), "rows": []}
    result |= {"environment": gpu_environment(), "git": git_commit()}
    meter = plan.meter()
    for name in plan.models:
        result["rows"] += timed(name, plan, meter)
        gc.collect()
    return result


def report(result: dict[str, Any]) -> str:
    """Markdown; of a dry run, the list of what ran and not one figure."""
    if result["dry_run"]:
        return "\n".join([f"**{DRY_RUN}**", "", *(f"* ran: {row['model']}, {row['shape']}" for row in result["rows"])])
    lines, verdicts = [], []
    for row in result["rows"]:
        shape, ratio = TRAINED[row["shape"]], row["over_softmax"]
        spread = "-" if ratio is None else f"{ratio['p50']:.3f} ({ratio['p20']:.3f} to {ratio['p80']:.3f})"
        lines.append([shape.title, str(row["batch"]), row["model"], f"{row['milliseconds']:.1f}", f"{row['memory_mib']:.0f}", spread])
        if ratio is not None:
            verdict = "met" if ratio["p50"] <= shape.target else "missed"
            verdicts.append(f"* {shape.title}: {ratio['p50']:.3f} times softmax, target {shape.target:.2f}: {verdict}")
    header = ["model", "batch", "attention", "ms a step", "added memory, MiB", "time over softmax"]
    return "\n".join([table(header, lines, markdown=True), "", *verdicts])


def main() -> None:
    """The command line."""
    parser = Parser(prog="python -m recipes.benchmarks.training", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="rehearse on the CPU")
    parser.add_argument("--models", nargs="+", choices=list(TRAINED), default=list(TRAINED))
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="float32 is the Trainer's default (here: bfloat16)")
    parser.add_argument("--rounds", type=int, help=f"steps of each model that are timed (default: {TrainingPlan.rounds})")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    if not chosen.dry_run and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --dry-run rehearses the benchmark on the CPU and measures nothing")
    if chosen.rounds is not None and chosen.rounds < 1:
        sys.exit(f"--rounds must be at least 1, but is {chosen.rounds}")
    plan = replace(DRY if chosen.dry_run else TrainingPlan(), models=tuple(chosen.models))
    given = {name: value for name in ("dtype", "rounds") if (value := getattr(chosen, name)) is not None}
    result = training_speed(replace(plan, **given))
    usual = "cuda-float32" if given.get("dtype") == "float32" else "cuda"
    path = chosen.output or Path("runs/training-dry-run.json" if chosen.dry_run else f"recipes/results/training-{usual}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    path.with_suffix(".md").write_text(report(result) + "\n", encoding="utf-8")
    print(report(result))


if __name__ == "__main__":
    main()
