"""Time a training step of every map side by side, in one process: by that, question 7 compares them.

    python -m recipes.verdict pace --data DIR [--tasks ...] [--rounds 31]

The cells of the plan are trained on several days, and maybe on several machines, so that their own times do not compare maps. A line for
each task goes to `pace.jsonl`; of two for a task the later one counts.
"""

import argparse
import time
from itertools import islice
from pathlib import Path

import torch
from tqdm.auto import tqdm

from hf_tanhmax.provenance import git_commit, hardware, versions
from recipes.conversion.run import add_line

from ..benchmarks.measure import environment, percentiles
from ..command_line import Parser, exit_codes
from .data.load import load
from .models import build
from .plan import Plan, Task, read_plan
from .results import PACES, Line
from .run import add_places, checked_data, some
from .training import optimizer_of, take_step

WARM = 3  # steps that are not timed


@exit_codes()
def main(arguments: list[str]) -> int:
    """Time the tasks; 0 if it went well, 2 if something given cannot work."""
    parser = Parser(prog="python -m recipes.verdict pace", description=__doc__)
    add_places(parser)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with sst2/, cifar10/, text/; generated rows need none")
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="of the plan; default: all")
    parser.add_argument("--rounds", type=_count, default=31, metavar="N", help="steps of each map, one map after the other")
    chosen = parser.parse_args(arguments)
    checked_data(chosen.data)
    plan = read_plan(chosen.plan)
    chosen.results.mkdir(parents=True, exist_ok=True)
    for name in some("tasks", chosen.tasks, list(plan.tasks)):
        line = timed(plan.tasks[name], plan, chosen.data, chosen.rounds)
        add_line(chosen.results / PACES, line)
        print(f"{name}: " + ", ".join(f"{each} {found['ratio'][1]:.2f}" for each, found in line["maps"].items()), flush=True)
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but is {number}")
    return number


def timed(task: Task, plan: Plan, folder: Path | None, rounds: int) -> Line:
    """The line of a task: by map, `seconds` of processor time per step, and `ratio` to softmax, each as 20th, 50th and 80th percentile."""
    data, seed = load(task, folder), plan.sweep_seed
    models = {name: build(task, name, data.words, data.classes, dropout=plan.dropout, seed=seed).train() for name in plan.maps}
    optimizers = {name: optimizer_of(model, plan, min(plan.learning_rates)) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    torch.manual_seed(seed)
    batches = islice(data.training(seed), WARM + rounds)
    for batch in tqdm(batches, desc=task.name, total=WARM + rounds, unit="round", leave=False, disable=None):
        for name, model in models.items():
            started = time.process_time()
            take_step(model, optimizers[name], batch, task, plan)
            seconds[name].append(time.process_time() - started)
    base = seconds[plan.baseline][WARM:]
    maps = {
        name: {
            "seconds": percentiles(found[WARM:]),
            "ratio": percentiles([one / other for one, other in zip(found[WARM:], base, strict=True)]),
        }
        for name, found in seconds.items()
    }
    origin = {"versions": versions(), "git": git_commit(), "hardware": hardware() | {"cpu": environment()["cpu"]}}
    return {"task": task.name, "plan": plan.digest, "rounds": len(base), "maps": maps, **origin}
