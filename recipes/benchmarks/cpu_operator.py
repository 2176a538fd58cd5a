"""The C++ operator and whole models on the CPU beside stock softmax: dtypes, head sizes, what is added to scores, decoding, threads.

python -m recipes.benchmarks.cpu_operator [--parts calls decode threads models] [--rounds 9] [--output recipes/results/cpu-operator.json]

Each round times every contender once, one after the other; a ratio is to softmax of the same round, in processor time of one thread. Of
softmax the faster of what there is counts: torch's SDPA for a call (which has no softcap, so for that it is eager softmax as well), and a
model with `sdpa` or with `eager` attention. Threads are compared by the shortest wall-clock time of many rounds with one and with two
threads in turn, for ours and for SDPA: on a machine that does other things at the same time both are lower bounds. So what two threads
compute together is compared with what one does, too: twice that ratio is how much faster two idle processors would be. Weights are random,
as speed does not hang on them.
"""

import copy
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from tqdm import tqdm

import hf_tanhmax
from hf_tanhmax import tanhmax_attention, why_not
from hf_tanhmax.results import table

from ..command_line import Parser
from .measure import environment, percentiles, processor_time

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HEAD_SIZES = (32, 64, 96, 128, 256)
ADDED = ("bias", "additive mask", "softcap", "dropout", "boolean mask")
PARTS = ("calls", "decode", "threads", "models")
BERT_TINY: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
MINILM: dict[str, Any] = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
VIT_S: dict[str, Any] = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536, "patch_size": 16}
SMOLLM2: dict[str, Any] = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
}
TARGETS = {"calls": 1.0, "decode": 1.0, "models": 1.05}
TINY_TARGET, THREADS_TARGET = 1.15, 1.8


def added(what: str, shape: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What TanhMax attention and SDPA are given besides query, key and value."""
    numbers = torch.randn(1, shape[1], shape[2], shape[2])
    keep = torch.arange(shape[2]) < torch.tensor([shape[2], shape[2] // 2]).repeat(shape[0])[: shape[0], None, None, None]
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "bias": ({"bias": numbers}, {"attn_mask": numbers}),
        "additive mask": ({"additive_mask": numbers}, {"attn_mask": numbers}),
        "softcap": ({"softcap": 30.0}, {}),
        "dropout": ({"dropout_p": 0.1}, {"dropout_p": 0.1}),
        "boolean mask": ({"keep": keep}, {"attn_mask": keep}),
        "nothing": ({}, {}),
    }
    return found[what]


def timed(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Processor time of each contender in each round, in milliseconds, once warm."""
    for call in contenders.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            times[name].append(1e3 * processor_time(call))
    return times


def compared(part: str, label: str, contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, Any]:
    """A row: the first contender over the fastest of the others."""
    times = timed(contenders, rounds)
    (own, ours), *others = times.items()
    name, best = min(others, key=lambda each: percentiles(each[1])[1])
    low, middle, high = percentiles([one / other for one, other in zip(ours, best, strict=True)])
    return {"part": part, "what": label, "beside": name, "p20": low, "p50": middle, "p80": high, "contender": own}


def passes(attend: Callable[..., Any], tensors: list[Tensor], options: dict[str, Any], gradients: bool) -> Callable[[], object]:
    """One forward pass, or one with the backward pass; also of what is added, where it is a number."""
    if not gradients:
        return torch.no_grad()(lambda: attend(*tensors[:3], **options))
    leaves = [tensor.clone().requires_grad_() for tensor in tensors[:3]]
    options = {
        name: item.clone().requires_grad_() if isinstance(item, Tensor) and item.is_floating_point() else item
        for name, item in options.items()
    }
    leaves += [item for item in options.values() if isinstance(item, Tensor) and item.is_floating_point()]
    return lambda: torch.autograd.grad(attend(*leaves[:3], **options), leaves, tensors[3])


def calls() -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """Single calls by dtype and head size, and with what is added to scores in float32."""
    settings = [(dtype, (1, 12, 512, size), "nothing") for dtype in DTYPES for size in HEAD_SIZES]
    settings += [("float32", (4, 12, 512, 64), what) for what in ADDED]
    for dtype, shape, what in settings:
        for gradients in (False, True):
            torch.manual_seed(0)
            tensors = [torch.randn(shape).to(DTYPES[dtype]) for _ in range(4)]
            ours, stock = added(what, shape)
            reason = why_not(*tensors[:3], implementation="native", **ours)
            if reason is not None:
                sys.exit(f"nothing is timed: {reason}")
            label = f"{dtype}, {'forward+backward' if gradients else 'forward'}, {shape}{'' if what == 'nothing' else ', ' + what}"
            contenders = {"cpu": passes(tanhmax_attention, tensors, ours, gradients)}
            yield label, contenders | {"SDPA": passes(scaled_dot_product_attention, tensors, stock, gradients)}


def decoding() -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """One query against a cache of 8192 keys, with as many key heads as heads, and with a third."""
    for dtype in DTYPES:
        for kv_heads in (9, 3):
            torch.manual_seed(0)
            query = torch.randn(1, 9, 1, 64).to(DTYPES[dtype])
            key, value = (torch.randn(1, kv_heads, 8192, 64).to(DTYPES[dtype]) for _ in range(2))
            tensors, options = [query, key, value], {"enable_gqa": True} if kv_heads < 9 else {}
            ours, stock = passes(tanhmax_attention, tensors, {}, False), passes(scaled_dot_product_attention, tensors, options, False)
            yield f"{dtype}, 9 heads over {kv_heads}, 8192 keys", {"cpu": ours, "SDPA": stock}


def threads(rounds: int) -> list[dict[str, Any]]:
    """How many times as fast two threads are as one, of ours and of SDPA: by the clock, and by what both threads compute together."""
    rows = []
    for gradients in (False, True):
        tensors = [torch.randn(4, 12, 512, 64) for _ in range(4)]
        contenders = {"cpu": passes(tanhmax_attention, tensors, {}, gradients)}
        contenders["SDPA"] = passes(scaled_dot_product_attention, tensors, {}, gradients)
        found: dict[tuple[str, int], list[tuple[float, float]]] = {(name, count): [] for name in contenders for count in (1, 2)}
        for _ in range(4 * rounds):
            for (name, count), times in found.items():
                torch.set_num_threads(count)
                start, worked = time.perf_counter(), time.process_time()
                contenders[name]()
                times.append((time.perf_counter() - start, time.process_time() - worked))
        torch.set_num_threads(1)
        row: dict[str, Any] = {"part": "threads", "what": "forward+backward" if gradients else "forward"}
        for name in contenders:
            (wall, _), (wall_of_two, _) = (min(found[name, count]) for count in (1, 2))
            work, work_of_two = (percentiles([each[1] for each in found[name, count]])[1] for count in (1, 2))
            row |= {name: wall / wall_of_two, f"{name}, by work": 2.0 * work / work_of_two}
        rows.append(row)
    return rows


def models() -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """Whole models: inference, a training step, text generation."""
    tokens = torch.randint(100, 1000, (16, 128))
    encoder = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    short = {name: item[:1] for name, item in encoder.items()}
    tiny = transformers.BertModel(transformers.BertConfig(**BERT_TINY))
    mini = transformers.BertForSequenceClassification(transformers.BertConfig(**MINILM))
    vision = transformers.ViTModel(transformers.ViTConfig(**VIT_S))
    smol = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMOLLM2, vocab_size=49152, tie_word_embeddings=True))
    causal, long, images = {"input_ids": tokens[:1]}, {"input_ids": tokens.view(4, 512)[:1]}, {"pixel_values": torch.randn(4, 3, 224, 224)}
    yield "BERT-tiny, forward, 1 x 128", _models(tiny, lambda model: inference(model, short))
    yield "MiniLM, forward, 16 x 128", _models(mini, lambda model: inference(model, encoder))
    labels = {"labels": torch.zeros(16, dtype=torch.long)}
    yield "MiniLM, training step, 16 x 128", _models(mini, lambda model: training(model, encoder | labels))
    yield (
        "ViT-S, forward, 4 images",
        _models(vision, lambda model: inference(model, images)),
    )
    yield "SmolLM2-135M, forward, 1 x 512", _models(smol, lambda model: inference(model, long))
    yield "SmolLM2-135M, training step, 1 x 128", _models(smol, lambda model: training(model, causal | {"labels": tokens[:1]}))
    yield "SmolLM2-135M, generate, 128 + 16", _models(smol, lambda model: generation(model, causal))


def _models(stock: Any, run: Callable[[Any], Callable[[], object]]) -> dict[str, Callable[[], object]]:
    ours = hf_tanhmax.convert(copy.deepcopy(stock), polarity=1.0)
    found = {"TanhMax": run(ours)}
    for name in ("sdpa", "eager"):
        model = copy.deepcopy(stock)
        model.set_attn_implementation(name)
        found[name] = run(model)
    return found


def inference(model: Any, inputs: dict[str, Tensor]) -> Callable[[], object]:
    """One forward pass in evaluation mode."""

    def call() -> object:
        model.eval()
        return model(**inputs)

    return torch.no_grad()(call)


def training(model: Any, inputs: dict[str, Tensor]) -> Callable[[], object]:
    """Forward and backward pass in training mode."""

    def call() -> None:
        model.train()
        model(**inputs).loss.backward()
        model.zero_grad()

    return call


def generation(model: Any, inputs: dict[str, Tensor]) -> Callable[[], object]:
    """16 greedy tokens after a prompt."""
    options = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def call() -> object:
        model.eval()
        return model.generate(**inputs, **options)

    return call


def run(parts: list[str], rounds: int) -> Iterator[dict[str, Any]]:
    """Every setting of the parts that are wanted, a row after the other."""
    torch.set_num_threads(1)
    sources = {"calls": calls, "decode": decoding, "models": models}
    for part in parts:
        if part == "threads":
            yield from threads(rounds)
            continue
        for what, contenders in tqdm(sources[part](), desc=part, file=sys.stderr):
            yield compared(part, what, contenders, rounds)


def result_of(rows: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Rows with what they hang on."""
    return {"benchmark": "cpu operator", "rounds": rounds, "load": os.getloadavg()[0], "environment": environment(), "rows": rows}


def report(result: dict[str, Any]) -> str:
    """The result as Markdown: medians with their spread, and where each target stands."""
    versions = result["environment"]
    machine = f"{versions['cpu']} ({versions['capability']}), torch {versions['torch']}, transformers {versions['transformers']}"
    lines = [f"{machine}, at least {result['rounds']} rounds, at a load of {result['load']:.0f} when it ended."]
    ratios = [row for row in result["rows"] if row["part"] != "threads"]
    if ratios:
        cells = [[row["what"], row["beside"], f"{row['p50']:.2f} ({row['p20']:.2f} to {row['p80']:.2f})"] for row in ratios]
        lines += ["", table(["TanhMax over softmax, one thread", "softmax", "median (p20 to p80)"], cells, markdown=True)]
    scaled = [row for row in result["rows"] if row["part"] == "threads"]
    if scaled:
        names = ("cpu, by work", "SDPA, by work", "cpu", "SDPA")
        cells = [[row["what"], *(f"{row[name]:.2f}" for name in names)] for row in scaled]
        header = ["two threads over one, (4, 12, 512, 64)", *names[:2], "cpu, by the clock", "SDPA, by the clock"]
        lines += ["", table(header, cells, markdown=True)]
    return "\n".join([*lines, "", *verdicts(result["rows"])])


def verdicts(rows: list[dict[str, Any]]) -> Iterator[str]:
    """One line for each setting that misses its target, or one that none does."""
    missed = []
    for row in rows:
        if row["part"] == "threads":
            if row["cpu, by work"] < THREADS_TARGET:
                missed.append(f"* two threads, {row['what']}: {row['cpu, by work']:.2f} times as fast, target {THREADS_TARGET:g}: missed")
            continue
        target = TINY_TARGET if row["what"].startswith("BERT-tiny") else TARGETS[row["part"]]
        if row["p50"] > target:
            missed.append(f"* {row['what']}: {row['p50']:.2f}, target {target:g}: missed")
    yield from missed or ["* every target is met"]


def main() -> None:
    """Run the benchmark and write its result."""
    parser = Parser(prog="python -m recipes.benchmarks.cpu_operator", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("recipes/results/cpu-operator.json"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for row in run(options.parts, options.rounds):  # what is measured is kept, whatever comes after
        rows.append(row)
        options.output.write_text(json.dumps(result_of(rows, options.rounds), indent=1) + "\n", encoding="utf-8")
    print(report(result_of(rows, options.rounds)))


if __name__ == "__main__":
    main()
