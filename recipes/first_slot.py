"""The first minutes on a GPU: is it right, case by case, and then how fast. Under nine minutes in all; nothing is downloaded.

python -m recipes.first_slot [--out recipes/results/gpu]
python -m recipes.first_slot --dry [--only "bfloat16 D64 padding" ...]

Each case runs in a process of its own, twelve at a time, so that one that crashes takes no other along and what they compile is compiled in
parallel. Then one process times with the GPU to itself. The folder gets `correct.jsonl` and `speed.jsonl`, line by line as they are known,
and `env.txt`. `--dry` rehearses all of it on the CPU, with the kernels in Triton's interpreter, and times nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hf_tanhmax.kernels.interpreter import faithful

from .first_slot_cases import CRASH, cases
from .first_slot_speed import speeds
from .measure import gpu_environment

OUT = Path("recipes/results/gpu")
SECONDS = 530.0  # for everything; correctness may take half of it
CASE_SECONDS = 150.0
TOGETHER = 12


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="recipes.first_slot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the results")
    parser.add_argument("--dry", action="store_true", help="rehearse it on the CPU")
    parser.add_argument("--only", nargs="+", help="these cases, and no timing")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # what a worker is asked to do
    parser.add_argument("--speed", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = "cpu" if options.dry else "cuda"
    if options.case or options.speed:
        _work(device, options.case, options.out / "speed.jsonl")
        return
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --dry rehearses the slot on the CPU and times nothing")
    known = [name for name in cases(device) if name != CRASH]
    unknown = [name for name in options.only or () if name not in (*known, CRASH)]
    if unknown:
        sys.exit(f"there is no case {unknown[0]!r}; there are: {'; '.join(known)}")
    sys.exit(_run(options, options.only or known))


def _run(options: argparse.Namespace, names: list[str]) -> int:
    """All cases, then the timing; 1 if a case is wrong or gave no answer."""
    began = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "env.txt").write_text(_machine(), encoding="utf-8")
    until = began + SECONDS / 2
    found = []
    with ThreadPoolExecutor(2 if options.dry else TOGETHER) as pool, (options.out / "correct.jsonl").open("w", encoding="utf-8") as file:
        for done in as_completed([pool.submit(_answer, name, options.dry, until) for name in names]):
            found.append(done.result())
            print(json.dumps(found[-1]), file=file, flush=True)
            if not found[-1]["right"]:
                print(json.dumps(found[-1]))
    right = sum(row["right"] for row in found)
    print(f"{right} of {len(names)} cases are right, after {time.monotonic() - began:.0f} s")
    if not options.only:
        _time(options, began + SECONDS)
    return int(right < len(names))


def _command(options: list[str], dry: bool) -> tuple[list[str], dict[str, str]]:
    """A worker and its environment: Triton reads whether it is to interpret when it is imported."""
    command = [sys.executable, "-W", "default", "-m", "recipes.first_slot", *options, *(["--dry"] if dry else [])]
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


def _time(options: argparse.Namespace, until: float) -> None:
    """The timing, which writes its file itself; what it has when the time is over stays."""
    command, environment = _command(["--speed", "--out", str(options.out)], options.dry)
    try:
        done = subprocess.run(command, env=environment, timeout=None if options.dry else max(1.0, until - time.monotonic()), check=False)
        if done.returncode:
            print(f"timing ended with {done.returncode}; {options.out / 'speed.jsonl'} holds what came before")
    except subprocess.TimeoutExpired:
        print("timing was cut short")


def _work(device: str, name: str | None, path: Path) -> None:
    """What a worker does: answer a case on standard output, or, without one, time and write that to a file."""
    if device == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)  # fills what nobody wrote with NaN
    torch.manual_seed(0)
    with faithful():
        if name is not None:
            outcome = cases(device)[name]()
            if device == "cuda":
                torch.cuda.synchronize()
            print(json.dumps(asdict(outcome) | {"right": outcome.right}))
            return
        torch.use_deterministic_algorithms(False)
        with path.open("w", encoding="utf-8") as file:
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
