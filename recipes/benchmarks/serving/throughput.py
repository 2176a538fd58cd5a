"""Requests per second and latency of vLLM's server: TanhMax and softmax with the same weights and settings, in turn, in one run.

python -m recipes.benchmarks.serving.throughput --model FOLDER [--output FILE]

The folder holds a softmax language model with its tokenizer; its TanhMax twin is made of it. Both servers run all the time, and one of them
is asked at a time, in an order that alternates; a ratio is of two rounds that follow each other. A first round of each is not counted.
Prompts are random tokens, and answers are as long as they are asked for. On a machine that does other things as well, the processor time of
a server's processes says more than the clock.
"""

import argparse
import asyncio
import json
import random
import shutil
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import transformers

import hf_tanhmax

from ...command_line import Parser
from .engine import conditions, set_environment
from .server import Answer, Server, ask_all

OPTIONS = {"enforce-eager": True, "dtype": "float32", "max-model-len": 1024, "max-num-seqs": 16, "no-enable-prefix-caching": True}
VARIANTS = ("tanhmax", "softmax")


def twin_of(model: Path, folder: Path) -> Path:
    """Write the TanhMax model with the weights of a softmax model, and its tokenizer, into a folder."""
    hf_tanhmax.convert(str(model), transformers.AutoModelForCausalLM).save_pretrained(folder)
    for path in model.glob("*token*"):
        shutil.copy(path, folder)
    return folder


def bodies(count: int, seed: int, *, vocabulary: int, longest: int, new: int) -> list[dict[str, Any]]:
    """Requests with prompts of random tokens, of 16 tokens up to the longest."""
    draw = random.Random(seed)
    prompts = [[draw.randrange(3, vocabulary) for _ in range(draw.randint(16, longest))] for _ in range(count)]
    return [{"prompt": prompt, "max_tokens": new, "temperature": 0, "ignore_eos": True} for prompt in prompts]


def measured(answers: list[Answer], seconds: float, processor: float) -> dict[str, float]:
    """Requests and new tokens per second, percentiles of the latency of a request, and processor time per request, in seconds.

    Raises:
        RuntimeError: a request was not answered.
    """
    if failed := [each.error for each in answers if each.status != "complete"]:
        raise RuntimeError(f"{len(failed)} requests were not answered: {failed[0]}")
    twentieths = statistics.quantiles([each.seconds for each in answers], n=20, method="inclusive")
    return {
        "requests_per_second": len(answers) / seconds,
        "tokens_per_second": sum(len(each.tokens) for each in answers) / seconds,
        "latency_p50": twentieths[9],
        "latency_p95": twentieths[18],
        "processor_seconds": processor / len(answers),
    }


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What each round of each model measured, and the ratios of TanhMax to softmax."""
    models = {"tanhmax": twin_of(arguments.model, folder / "tanhmax"), "softmax": arguments.model}
    vocabulary = transformers.AutoConfig.from_pretrained(arguments.model).vocab_size
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(Server(models[name], folder / f"{name}.log", OPTIONS)) for name in VARIANTS}
        for number in range(arguments.rounds + 1):
            asked = bodies(arguments.requests, number, vocabulary=vocabulary, longest=arguments.longest, new=arguments.new)
            for name in VARIANTS if number % 2 else VARIANTS[::-1]:
                start, before = time.perf_counter(), servers[name].processor_seconds()
                answers = asyncio.run(ask_all(servers[name].url, asked, concurrent=arguments.concurrent))
                seconds = time.perf_counter() - start
                rounds[name].append(measured(answers, seconds, servers[name].processor_seconds() - before))
    counted = {name: each[1:] for name, each in rounds.items()}
    ratios = {
        key: spread([a[key] / b[key] for a, b in zip(counted["tanhmax"], counted["softmax"], strict=True)]) for key in counted["softmax"][0]
    }
    plan = {name: getattr(arguments, name) for name in ("requests", "concurrent", "longest", "new", "rounds")}
    return {"plan": plan | {"model": arguments.model.name, "options": OPTIONS}, "rounds": counted, "ratios": ratios}


def spread(values: list[float]) -> dict[str, float]:
    """The median, the least and the largest of some numbers."""
    return {"median": statistics.median(values), "least": min(values), "largest": max(values)}


def main() -> None:
    """Measure, and write or print the result."""
    parser = Parser(prog="python -m recipes.benchmarks.serving.throughput", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--concurrent", type=int, default=8)
    parser.add_argument("--longest", type=int, default=256, help="tokens of the longest prompt")
    parser.add_argument("--new", type=int, default=24, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    set_environment()
    with tempfile.TemporaryDirectory() as folder:
        found = {"conditions": conditions(), **run(arguments, Path(folder))}
    text = json.dumps(found, indent=1) + "\n"
    if arguments.output is None:
        print(text)
    else:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
