"""Speed and accuracy of attention, measured side by side in one run, and timed only if the results are right.

python -m recipes.benchmarks.attention attention [--device cpu] [--rounds 9] [--output recipes/results/attention-cpu.json]
python -m recipes.benchmarks.attention attention --device cuda [--head-dims 64 128] [--lengths 2048 8192]
python -m recipes.benchmarks.attention attention --device cuda --dry-run
python -m recipes.benchmarks.attention decode --device cuda [--dry-run]
python -m recipes.benchmarks.attention accuracy [--device cuda] [--output recipes/results/accuracy-cuda.json]
python -m recipes.benchmarks.attention tune --device cuda [--output FILE] [--dry-run]
python -m recipes.benchmarks.attention join recipes/results/attention-d64.json recipes/results/attention-d128.json --output both.json
python -m recipes.benchmarks.attention table recipes/results/attention-cpu.json

On the CPU times are ratios alone, as machines differ and are shared; on a GPU they are milliseconds and TFLOP/s too. A dry run rehearses
the GPU's benchmark on the CPU, with the kernels in Triton's interpreter, and measures nothing. Each result is JSON with the machine and
the versions, with CSV and (of a GPU) Markdown and plots beside it.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from hf_tanhmax.attention.kernels.support import triton_missing

from ...command_line import Parser
from . import accuracy, gpu_plan, gpu_report, roofline
from . import cpu as attention_cpu
from . import decode as decode_speed
from . import gpu as attention_gpu

REPORTS = {
    "attention": attention_cpu.report,
    "attention-gpu": gpu_report.report,
    "accuracy": accuracy.report,
    "decode": decode_speed.report,
}
RESULTS = Path("recipes/results")
CPU_ROUNDS = 9


def report(result: dict[str, Any]) -> str:
    """A result as Markdown."""
    return REPORTS[result["benchmark"]](result)


def write(result: dict[str, Any], path: Path) -> None:
    """The result as JSON, and its rows as CSV beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    rows = [flat(row) for row in result["rows"]]
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose nested mappings became columns, as `ratios.eager.p50`."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        found |= {f"{key}.{inner}": item for inner, item in flat(value).items()} if isinstance(value, dict) else {key: value}
    return found


def joined(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Several runs of the GPU's benchmark as one result, with the rows of all.

    Raises:
        SystemExit: one is of another benchmark, machine, version or commit.
    """
    first, *others = results
    for key in ("benchmark", "dry_run", "environment", "git"):
        if key not in first or any(other.get(key) != first[key] for other in others):
            sys.exit(f"only runs of the GPU's attention benchmark that agree in their {key} can be joined")
    lists = {key: [item for result in results for item in result[key]] for key in ("plans", "rows", "clocks")}
    return first | lists | {"complete": all(result["complete"] for result in results)}


def on_gpu(plan: gpu_plan.Plan, path: Path) -> dict[str, Any]:
    """Run the GPU's benchmark; what there is so far is written after every setting."""
    if plan.dry_run and os.environ.get("TRITON_INTERPRET") != "1":
        _again_in_the_interpreter()
    if not plan.dry_run and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --dry-run rehearses the benchmark on the CPU and measures nothing")
    result: dict[str, Any] = {}
    for result in attention_gpu.attention(plan):
        write(result, path)
    return result


def _again_in_the_interpreter() -> NoReturn:
    """Run this command in a process whose Triton interprets: Triton reads the variable when it is imported, which it has been by now."""
    command = [sys.executable, "-m", "recipes.benchmarks.attention", *sys.argv[1:]]
    sys.exit(subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, check=False).returncode)


def _chosen(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {key: getattr(arguments, key) for key in ("lengths", "head_dims", "groups", "dtypes", "names", "jobs", "commit")}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items() if value is not None}


def _attention(arguments: argparse.Namespace) -> dict[str, Any]:
    name = "dry-run" if arguments.dry_run else arguments.device
    arguments.output = arguments.output or (Path("runs") if arguments.dry_run else RESULTS) / f"attention-{name}.json"
    chosen = _chosen(arguments)
    if arguments.device == "cpu" and not arguments.dry_run:
        if chosen:
            sys.exit(f"only the GPU's benchmark has a choice of {', '.join(chosen)}; --device cuda runs it, --dry-run rehearses it")
        return attention_cpu.attention(arguments.rounds or CPU_ROUNDS)
    if arguments.rounds:
        chosen["rounds"] = arguments.rounds
    try:
        plan = replace(gpu_plan.DRY if arguments.dry_run else gpu_plan.Plan(), **chosen)
    except ValueError as error:
        sys.exit(str(error))
    return on_gpu(plan, arguments.output)


def _decode(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.dry_run and os.environ.get("TRITON_INTERPRET") != "1":
        _again_in_the_interpreter()
    if not arguments.dry_run and (arguments.device != "cuda" or not torch.cuda.is_available()):
        sys.exit("decoding is timed on a GPU: there is no CUDA device here, or --device is not cuda; --dry-run rehearses it on the CPU")
    name = "dry-run" if arguments.dry_run else arguments.device
    arguments.output = arguments.output or (Path("runs") if arguments.dry_run else RESULTS) / f"decode-{name}.json"
    result: dict[str, Any] = {}
    for result in decode_speed.decode_speed(decode_speed.DRY if arguments.dry_run else decode_speed.DecodePlan()):
        write(result, arguments.output)
    return result


def _accuracy(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --device cpu measures what runs on the CPU")
    if arguments.device == "cpu" and triton_missing() is None and "TRITON_INTERPRET" not in os.environ:
        _again_in_the_interpreter()
    arguments.output = arguments.output or RESULTS / f"accuracy-{arguments.device}.json"
    return accuracy.accuracy(arguments.device)


def _tune(arguments: argparse.Namespace) -> None:
    if arguments.dry_run and os.environ.get("TRITON_INTERPRET") != "1":
        _again_in_the_interpreter()
    if not arguments.dry_run and not torch.cuda.is_available():
        sys.exit(
            "tiles are timed on a GPU: there is no CUDA device here; --dry-run --output FILE rehearses it on the CPU and times nothing"
        )
    if triton_missing() is not None:
        sys.exit(f"the fused kernel {triton_missing()}")
    if arguments.dry_run and arguments.output is None:
        sys.exit("a rehearsal times nothing: name a file for it with --output")
    from . import tune

    device, path = "cpu" if arguments.dry_run else "cuda", arguments.output or tune.usual_file()
    tune.write_choices(path, dict(tune.tune(device, dtypes=tuple(arguments.dtypes), head_sizes=tuple(arguments.head_dims))), device)
    print(f"the kernels read {path} from now on" if arguments.output is None else f"HF_TANHMAX_TUNED={path} has the kernels read it")


def _read(arguments: argparse.Namespace) -> dict[str, Any]:
    results = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.results]
    return joined(results) if arguments.output else results[0]


def _parser() -> Parser:
    program = os.environ.get("HF_TANHMAX_PROGRAM", "python -m recipes.benchmarks.attention")  # `hf-tanhmax bench` starts it too
    parser = Parser(prog=program, description=__doc__)
    commands = parser.add_subparsers(required=True)
    speed = commands.add_parser("attention", help="time attention, by tanhmax_attention and otherwise")
    speed.set_defaults(run=_attention)
    speed.add_argument("--rounds", type=int)
    gpu = speed.add_argument_group("on a GPU")
    gpu.add_argument("--dry-run", action="store_true", help="rehearse the GPU's benchmark on the CPU")
    gpu.add_argument("--lengths", type=int, nargs="+")
    gpu.add_argument("--head-dims", type=int, nargs="+")
    gpu.add_argument("--groups", type=int, nargs="+", help="query heads for each key head")
    gpu.add_argument("--dtypes", nargs="+", choices=list(gpu_plan.DTYPES))
    gpu.add_argument(
        "--contenders",
        dest="names",
        nargs="+",
        help="these, the baseline, the fused kernel and its twin; by default all but those that torch compiles for each shape",
    )
    gpu.add_argument("--jobs", type=int, help="processes that check results, and so compile, at the same time")
    gpu.add_argument("--commit", help="of a working tree without its history")
    decoding = commands.add_parser("decode", help="time one query against a cache, on a GPU")
    decoding.set_defaults(run=_decode)
    decoding.add_argument("--dry-run", action="store_true", help="rehearse it on the CPU")
    errors = commands.add_parser("accuracy", help="errors in half precision against float64")
    errors.set_defaults(run=_accuracy)
    for command in (speed, decoding, errors):
        command.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
        command.add_argument("--output", type=Path)
    tuning = commands.add_parser(
        "tune", help="time the tiles of the kernels on this GPU, and write what is fastest to a file that they read"
    )
    tuning.set_defaults(run=_tune)
    tuning.add_argument("--dry-run", action="store_true", help="rehearse it on the CPU, with a clock that counts calls")
    tuning.add_argument("--device", default="cuda", choices=("cuda",))
    tuning.add_argument("--dtypes", nargs="+", choices=gpu_plan.DTYPES, default=list(gpu_plan.DTYPES))
    tuning.add_argument("--head-dims", type=int, nargs="+", default=[64, 128])
    tuning.add_argument("--output", type=Path)
    join = commands.add_parser("join", help="write several runs on one GPU as one result")
    join.add_argument("results", type=Path, nargs="+")
    join.add_argument("--output", type=Path, required=True)
    join.set_defaults(run=_read)
    show = commands.add_parser("table", help="print a result as Markdown")
    show.add_argument("results", type=Path, nargs=1)
    show.set_defaults(run=_read, output=None)
    return parser


def main() -> None:
    """The command line."""
    arguments = _parser().parse_args()
    result = arguments.run(arguments)
    if result is None:
        return
    if arguments.output:
        write(result, arguments.output)
    if arguments.output and result["benchmark"] != "attention":  # the CPU's table is rendered into the README
        arguments.output.with_suffix(".md").write_text(report(result) + "\n", encoding="utf-8")
    if arguments.output and result["benchmark"] == "attention-gpu":
        roofline.plot(result, arguments.output)
    print(report(result))


if __name__ == "__main__":
    main()
