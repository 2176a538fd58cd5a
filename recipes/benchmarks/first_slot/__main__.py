"""The first run on a GPU: correctness case by case, then speed. Under nine minutes in all; nothing is downloaded.

python -m recipes.benchmarks.first_slot [--out recipes/results/gpu]
python -m recipes.benchmarks.first_slot --dry [--out runs/first_slot-dry] [--only "bfloat16 D64 padding" ...]

Each case runs in a process of its own, twelve at a time, so that one that crashes takes no other along and what they compile is compiled in
parallel. Then one process times with the GPU to itself. Every run makes a folder of its own in `--out`, named by the device and the time in
UTC: `correct.jsonl` and `speed.jsonl`, line by line as they are known, and `env.txt`. `--dry` rehearses all of it on the CPU, with the
kernels in Triton's interpreter, and times nothing. The exit status is 1 if a case is wrong, and 2 if nothing was run.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hf_tanhmax.attention.kernels.interpreter import faithful

from ...command_line import Parser
from ..measure import gpu_environment
from .cases import CRASH, Case, cases
from .speed import speeds

OUT, OUT_DRY = Path("recipes/results/gpu"), Path("runs/first_slot-dry")
SECONDS = 530.0  # for everything; correctness may take half of it
CASE_SECONDS = 150.0
TOGETHER = 12


def main() -> None:
    """The command line."""
    parser = Parser(prog="python -m recipes.benchmarks.first_slot", description=__doc__)
    parser.add_argument("--out", type=Path, help=f"where the folder of this run goes; {OUT}, or {OUT_DRY} with --dry")
    parser.add_argument("--dry", action="store_true", help="rehearse it on the CPU")
    parser.add_argument("--only", nargs="+", help="these cases, and no timing")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # what a worker is asked to do
    parser.add_argument("--speed", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = "cpu" if options.dry else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --dry rehearses the slot on the CPU and times nothing")
    known = cases(device)
    names = [name for name in known if name != CRASH]
    for name in [options.case] if options.case is not None else options.only or ():
        if name not in known:
            parser.error(f"there is no case {name!r}; there are: {'; '.join(names)}")
    if options.case is not None:
        _answer_one(device, known[options.case])
        return
    out = options.out or (OUT_DRY if options.dry else OUT)
    folder = out if options.speed else out / _run_name(device)
    try:
        folder.mkdir(parents=True, exist_ok=options.speed)
    except OSError as error:
        parser.error(f"--out: the folder {folder} for the results cannot be made: {error.strerror}")
    if options.speed:
        _time_all(device, folder / "speed.jsonl")
        return
    sys.exit(_run(folder, options.only or names, dry=options.dry, timing=not options.only))


def _run_name(device: str) -> str:
    """What tells a run from every other one: its device and when it began."""
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return f"{re.sub('[^A-Za-z0-9]+', '-', name)}_{time.strftime('%Y-%m-%dT%H-%M-%SZ', time.gmtime())}"


def _run(folder: Path, names: list[str], *, dry: bool, timing: bool) -> int:
    """All cases, then the timing; 1 if a case is wrong or gave no answer."""
    began = time.monotonic()
    print(f"results: {folder}", flush=True)
    (folder / "env.txt").write_text(_machine(), encoding="utf-8")
    until = began + SECONDS / 2
    found = []
    with ThreadPoolExecutor(2 if dry else TOGETHER) as pool, (folder / "correct.jsonl").open("x", encoding="utf-8") as file:
        for done in as_completed([pool.submit(_answer, name, dry, until) for name in names]):
            found.append(done.result())
            print(json.dumps(found[-1]), file=file, flush=True)
            if not found[-1]["right"]:
                print(json.dumps(found[-1]))
    right = sum(row["right"] for row in found)
    print(f"{right} of {len(names)} cases are right, after {time.monotonic() - began:.0f} s")
    if timing:
        _time(folder, began + SECONDS, dry=dry)
    return int(right < len(names))


def _command(options: list[str], dry: bool) -> tuple[list[str], dict[str, str]]:
    """A worker and its environment: Triton reads whether it is to interpret when it is imported."""
    command = [sys.executable, "-W", "default", "-m", "recipes.benchmarks.first_slot", *options, *(["--dry"] if dry else [])]
    return command, os.environ | {"TRITON_INTERPRET": "1" if dry else "0"}


def _answer(name: str, dry: bool, until: float) -> dict[str, Any]:
    """What the worker of a case says, or what became of it."""
    began = time.monotonic()
    seconds = min(CASE_SECONDS, until - began) if not dry else CASE_SECONDS
    row: dict[str, Any] = {"case": name, "right": False}
    if seconds < 1:
        return row | {"error": "not run: the time was over"}
    command, environment = _command(["--case", name], dry)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return row | {"error": f"no answer within {seconds:.0f} s"}
    row["seconds"] = round(time.monotonic() - began, 1)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        return row | {"error": f"its process ended with {done.returncode}: {last[0][:500] if last else 'no message'}"}
    return row | json.loads(done.stdout.splitlines()[-1])


def _time(folder: Path, until: float, *, dry: bool) -> None:
    """The timing, which writes its file itself; what it has when the time is over stays."""
    command, environment = _command(["--speed", "--out", str(folder)], dry)
    try:
        done = subprocess.run(command, env=environment, timeout=None if dry else max(1.0, until - time.monotonic()), check=False)
        if done.returncode:
            print(f"timing ended with {done.returncode}; {folder / 'speed.jsonl'} holds what came before")
    except subprocess.TimeoutExpired:
        print("timing was cut short")


def _answer_one(device: str, case: Case) -> None:
    """What the worker of a case does: answer on standard output."""
    if device == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)  # fills what nobody wrote with NaN
    torch.manual_seed(0)
    with faithful():
        outcome = case()
        if device == "cuda":
            torch.cuda.synchronize()
        print(json.dumps(asdict(outcome) | {"right": outcome.right}))


def _time_all(device: str, path: Path) -> None:
    """What the worker that times does: write a file, and say the same on standard output."""
    torch.manual_seed(0)
    with faithful(), path.open("x", encoding="utf-8") as file:
        for row in speeds(device):
            print(json.dumps(row), file=file, flush=True)
            print(json.dumps(row), flush=True)


def _machine() -> str:
    facts = [f"{key} {value}" for key, value in gpu_environment().items()]
    for command in (["nvidia-smi"], [sys.executable, "-m", "pip", "list"]):
        try:
            facts.append(subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout)
        except OSError as error:
            facts.append(f"{command[0]}: {error}")
    return "\n".join(facts) + "\n"


if __name__ == "__main__":
    main()
