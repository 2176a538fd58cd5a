"""How fast a model writes: `generate` and `generate_batch`, TanhMax and softmax side by side, and only if TanhMax is right.

python -m recipes.benchmarks.generate [--shapes 135M 1B] [--batches 1 8 64] [--contexts 512 2048 8192 32768]
python -m recipes.benchmarks.generate --dry-run

Weights are random, as speed does not hang on them. Each round runs both models once, in an order that alternates; a ratio is of two times
of the same round. Latency is the time from one token of `generate` to the next, the prompt's own left out; `generate_batch` tells none. A
dry run rehearses it on the CPU with a tiny model, and measures nothing.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM, StoppingCriteria

import hf_tanhmax
from hf_tanhmax.integration.serving import cache_argument
from hf_tanhmax.provenance import git_commit
from hf_tanhmax.results import table

from ..command_line import Parser
from .measure import gpu_environment, percentiles

# As SmolLM-135M and LLaMA-3.2-1B are built; what is rehearsed is smaller than either.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8},
}
VOCABULARY = {"tiny": 64, "135M": 49152, "1B": 128256}
MODELS = ("TanhMax", "softmax")
WAYS = ("generate", "generate_batch")
# The largest relative error of the logits of the fast path against the reference of the same model.
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
LARGEST_CACHE = 2**36  # bytes of keys and values; what needs more is left out, and said
DRY_RUN = "dry run: not a measurement"


@dataclass(frozen=True)
class GeneratePlan:
    """What to run; `new` tokens are written after each prompt of `context` tokens."""

    device: str = "cuda"
    dtype: str = "bfloat16"
    shapes: tuple[str, ...] = ("135M", "1B")
    batches: tuple[int, ...] = (1, 8, 64)
    contexts: tuple[int, ...] = (512, 2048, 8192, 32768)
    new: int = 64
    rounds: int = 5


DRY = GeneratePlan("cpu", "float32", ("tiny",), (1, 2), (6,), new=3, rounds=1)


class TokenTimes(StoppingCriteria):
    """The clock at each token of `generate`; it never stops it."""

    def __init__(self, clock: Callable[[], float], batch: int) -> None:
        self.times: list[float] = []
        self._clock, self._batch = clock, batch

    def __call__(self, input_ids: Tensor, _scores: Tensor, **_options: object) -> Tensor:
        """Read the clock; no row is done."""
        self.times.append(self._clock())
        return torch.zeros(self._batch, dtype=torch.bool, device=input_ids.device)


def clock(device: str) -> float:
    """Seconds, once the device has done what it was asked to."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def models(shape: str, plan: GeneratePlan) -> dict[str, LlamaForCausalLM]:
    """Both models with the same random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], vocab_size=VOCABULARY[shape], max_position_embeddings=2**16, tie_word_embeddings=True)
    config.eos_token_id = None
    softmax = LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=getattr(torch, plan.dtype)).eval().to(plan.device)
    signed = LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=getattr(torch, plan.dtype)).eval().to(plan.device)
    signed.load_state_dict(softmax.state_dict())
    hf_tanhmax.use_tanhmax(signed)
    return {"TanhMax": signed, "softmax": softmax}


def prompts(shape: str, batch: int, context: int, device: str) -> Tensor:
    """Random tokens `[batch, context]`, the same each time."""
    return torch.randint(VOCABULARY[shape], (batch, context), generator=torch.Generator().manual_seed(0)).to(device)


def gate(model: LlamaForCausalLM, tokens: Tensor) -> None:
    """Compare the logits of one cached step, on the fast path, with those of the reference.

    Raises:
        SystemExit: they differ.
    """
    found, cache = [], str(cache_argument(type(model).forward))
    with torch.no_grad():
        for name in ("sdpa", "eager"):
            model.set_attn_implementation(name)
            past = model(tokens[:, :-1], use_cache=True)[cache]
            found.append(model(tokens[:, -1:], **{cache: past}, use_cache=True).logits.double())
    model.set_attn_implementation("sdpa")
    error = ((found[0] - found[1]).norm() / found[1].norm()).item()
    if not error <= LIMITS[model.dtype]:
        sys.exit(f"generation is wrong: logits of a cached step are off by {error:.1e}; nothing was timed")


def by_generate(model: LlamaForCausalLM, tokens: Tensor, new: int) -> tuple[float, list[float]]:
    """Seconds of a call, and seconds from token to token."""
    kind = tokens.device.type
    times = TokenTimes(lambda: clock(kind), tokens.shape[0])
    started = clock(kind)
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    writer: Any = model  # Transformers types `generate` for a class that is none of its models'
    writer.generate(tokens, attention_mask=torch.ones_like(tokens), stopping_criteria=[times], **options)
    return clock(kind) - started, [later - earlier for earlier, later in zip(times.times, times.times[1:], strict=False)]


def by_generate_batch(model: LlamaForCausalLM, tokens: Tensor, new: int) -> tuple[float, list[float]]:
    """Seconds of a call; single tokens are not told apart."""
    started = clock(tokens.device.type)
    found = model.generate_batch(
        tokens.tolist(),
        generation_config=GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0),
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=16) if model.device.type == "cpu" else None,
        progress_bar=False,
    )
    seconds = clock(tokens.device.type) - started
    if any(len(each.generated_tokens) != new for each in found.values()):
        sys.exit("generate_batch did not write what it was asked to; its log says why")
    return seconds, []


def timed(pair: dict[str, LlamaForCausalLM], tokens: Tensor, way: str, plan: GeneratePlan) -> list[dict[str, Any]]:
    """A row for each model."""
    run = by_generate if way == "generate" else by_generate_batch
    for model in pair.values():
        run(model, tokens, plan.new)  # compiles, and fills the caches
    seconds: dict[str, list[float]] = {name: [] for name in pair}
    steps: dict[str, list[float]] = {name: [] for name in pair}
    for round_ in range(plan.rounds):
        for name in MODELS if round_ % 2 == 0 else MODELS[::-1]:
            took, between = run(pair[name], tokens, plan.new)
            seconds[name].append(took)
            steps[name] += between
    ratios = percentiles([one / other for one, other in zip(seconds["TanhMax"], seconds["softmax"], strict=True)])
    written = tokens.shape[0] * plan.new
    return [
        {
            "model": name,
            "way": way,
            "tokens_per_second": written / percentiles(seconds[name])[1],
            "latency_ms": latency(steps[name]),
            "over_softmax": dict(zip(("p20", "p50", "p80"), ratios, strict=True)) if name == "TanhMax" else None,
        }
        for name in pair
    ]


def latency(steps: list[float]) -> dict[str, float] | None:
    """Median and 95th percentile in milliseconds, of seconds; None if there are none."""
    if not steps:
        return None
    found = torch.tensor(steps, dtype=torch.float64).quantile(torch.tensor([0.5, 0.95], dtype=torch.float64)) * 1e3
    return dict(zip(("p50", "p95"), found.tolist(), strict=True))


def cache_bytes(shape: str, batch: int, length: int) -> int:
    """Size of keys and values in two bytes each."""
    sizes = SHAPES[shape]
    head_dim = sizes["hidden_size"] // sizes["num_attention_heads"]
    return 4 * sizes["num_hidden_layers"] * sizes["num_key_value_heads"] * head_dim * batch * length


def generate_speed(plan: GeneratePlan) -> dict[str, Any]:
    """Every shape, batch, context and way.

    Raises:
        SystemExit: TanhMax is wrong.
    """
    result: dict[str, Any] = {"benchmark": "generate", "dry_run": plan.device != "cuda", "plan": asdict(plan), "rows": [], "left_out": []}
    result |= {"environment": gpu_environment(), "git": git_commit()}
    for shape in plan.shapes:
        pair = models(shape, plan)
        gate(pair["TanhMax"], prompts(shape, 2, 6, plan.device))
        for batch in plan.batches:
            for context in plan.contexts:
                setting = {"shape": shape, "batch": batch, "context": context}
                if cache_bytes(shape, batch, context + plan.new) > LARGEST_CACHE:
                    result["left_out"].append(setting | {"reason": f"its cache takes more than {LARGEST_CACHE >> 30} GiB"})
                    continue
                for way in WAYS:
                    rows = timed(pair, prompts(shape, batch, context, plan.device), way, plan)
                    result["rows"] += [setting | row for row in rows]
        del pair
        gc.collect()
    return result


def report(result: dict[str, Any]) -> str:
    """Markdown; of a dry run, the list of what ran and not one figure."""
    if result["dry_run"]:
        return "\n".join([f"**{DRY_RUN}**", "", *dict.fromkeys(f"* ran: {row['model']}, {row['way']}" for row in result["rows"])])
    lines = []
    for row in result["rows"]:
        wait, ratio = row["latency_ms"], row["over_softmax"]
        waits = ["-", "-"] if wait is None else [f"{wait['p50']:.2f}", f"{wait['p95']:.2f}"]
        spread = "-" if ratio is None else f"{ratio['p50']:.3f} ({ratio['p20']:.3f} to {ratio['p80']:.3f})"
        place = [row["shape"], str(row["batch"]), str(row["context"]), row["way"], row["model"]]
        lines.append([*place, f"{row['tokens_per_second']:.0f}", *waits, spread])
    header = ["shape", "batch", "context", "way", "model", "tokens/s", "p50 ms", "p95 ms", "time over softmax"]
    left_out = [
        f"* left out: {item['shape']}, batch {item['batch']}, context {item['context']}: {item['reason']}" for item in result["left_out"]
    ]
    return "\n".join([table(header, lines, markdown=True), "", *left_out])


def main() -> None:
    """The command line."""
    parser = Parser(prog="python -m recipes.benchmarks.generate", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="rehearse on the CPU")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=GeneratePlan.shapes)
    parser.add_argument("--batches", nargs="+", type=int, default=GeneratePlan.batches)
    parser.add_argument("--contexts", nargs="+", type=int, default=GeneratePlan.contexts)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    if not chosen.dry_run and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --dry-run rehearses the benchmark on the CPU and measures nothing")
    plan = GeneratePlan(shapes=tuple(chosen.shapes), batches=tuple(chosen.batches), contexts=tuple(chosen.contexts))
    result = generate_speed(DRY if chosen.dry_run else plan)
    path = chosen.output or (Path("runs/generate-dry-run.json") if chosen.dry_run else Path("recipes/results/generate-cuda.json"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(report(result) + "\n", encoding="utf-8")
    print(report(result))


if __name__ == "__main__":
    main()
