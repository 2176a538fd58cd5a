"""The commands of `hf-tanhmax` that run in a process of their own: train, evaluate and bench."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import util
from pathlib import Path
from types import FrameType

from ..errors import RecipeError
from ..package_data import PACKAGE, data_folder
from .checks import check_writable

TRAIN, EVALUATE, BENCH = "hf_tanhmax.training.train", "hf_tanhmax.training.evaluate", "recipes.benchmarks.attention"
BENCHMARKS = ("attention", "decode", "accuracy", "tune", "join", "table")
PROGRAM = "HF_TANHMAX_PROGRAM"  # how a benchmark that this command starts calls itself in its help and its errors
IDENTITY = "recipe.json"  # what every folder of a run holds
# accelerate's launcher, without its notice of the values that it takes where none are given: the recipe's header says how many train.
LAUNCHER = """\
import logging
from accelerate.commands import launch
logging.getLogger(launch.__name__).addFilter(lambda record: "were not passed to `accelerate launch`" not in record.getMessage())
launch.main()
"""


def run_train(options: argparse.Namespace) -> int:
    """A recipe, through `accelerate launch`; its keys are checked here, before anything is launched."""
    given = list(options.arguments)
    if "--config_file" in given[:-1]:
        position = given.index("--config_file")
        options.config_file = given[position + 1]
        del given[position : position + 2]
    if not given or given[0].startswith("-"):
        raise SystemExit("name a recipe first, such as bert/text_classification/tanhmax.yaml; see hf-tanhmax train --help")
    recipe = _recipe_file("recipe", given[0])
    config = [] if options.config_file is None else ["--config_file", _recipe_file("config_file", options.config_file)]
    _need_extra()
    from ..training.configuration.recipe import print_help, read_recipes

    try:
        if {"--help", "-h"} & set(given):
            print_help([recipe])
            return 0
        for each in read_recipes([recipe, *given[1:]]):
            check_writable(each.output_dir)
    except RecipeError as error:
        raise SystemExit(str(error)) from error
    launch = [sys.executable, "-c", LAUNCHER, "--quiet", *config, "-m", TRAIN]
    return run([*launch, recipe, *given[1:]], launcher=True)


def run_evaluate(options: argparse.Namespace) -> int:
    """The metrics of a finished run, measured again; names of keys are checked here."""
    if not options.arguments or options.arguments[0].startswith("-"):
        raise SystemExit("name the folder of a run first; see hf-tanhmax evaluate --help")
    _need_extra()
    from ..training.configuration.recipe import CONFIGS, read_flags

    folder, flags = Path(options.arguments[0]), options.arguments[1:]
    try:
        task = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))["config"]["task"]
    except (OSError, ValueError, KeyError, TypeError):
        task = None
    if task not in CONFIGS:
        raise SystemExit(f"{folder} is not the folder of a run: it has no readable {IDENTITY}")
    try:
        if not {"--help", "-h"} & set(flags):
            read_flags(flags, task)
    except RecipeError as error:
        raise SystemExit(str(error)) from error
    return run([sys.executable, "-m", EVALUATE, *options.arguments])


def run_bench(options: argparse.Namespace) -> int:
    """The benchmarks, which are in a checkout alone: that of this package, or the one that the user stands in."""
    if not any((place / "recipes" / "benchmarks").is_dir() for place in (PACKAGE.parent, Path.cwd())):
        raise SystemExit(f"{BENCH} is not part of the installed package; run it from a checkout of the repository")
    given = options.arguments if options.tune is None else ["tune", *options.tune]
    if not given:
        raise SystemExit(f"name a benchmark first: {', '.join(BENCHMARKS)}; see hf-tanhmax bench --help")
    if not given[0].startswith("-") and given[0] not in BENCHMARKS:
        raise SystemExit(f"there is no benchmark {given[0]}; {_near(given[0], BENCHMARKS)}")
    os.environ[PROGRAM] = "hf-tanhmax bench"
    try:
        return run([sys.executable, "-m", BENCH, *given])
    finally:
        del os.environ[PROGRAM]


def run(command: Sequence[str], *, launcher: bool = False) -> int:
    """Run a program to its end, and pass on what is to stop it; returns its exit code.

    The program has a session of its own, so that Ctrl-C comes here alone. A launcher would die of it and leave its workers behind, which
    want to save a checkpoint first; so they are told, and the launcher waits for them as it always does.
    """
    received: list[int] = []
    process = subprocess.Popen(list(command), start_new_session=True)

    def _pass_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        send_signal(process.pid, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM, to_children=launcher)

    before = {number: signal.signal(number, _pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        return 128 + received[0]
    return code if code >= 0 else 128 - code


def send_signal(process: int, number: int, *, to_children: bool) -> None:
    """Send a signal to a process, or to its children where it has some; nothing if it has ended by itself."""
    import psutil  # which accelerate needs too

    try:
        found = psutil.Process(process)
        for target in (found.children() if to_children else []) or [found]:
            target.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _need_extra() -> None:
    if util.find_spec("accelerate") is None:
        raise SystemExit("accelerate is not installed; pip install hf-tanhmax[recipes]")


def _recipe_file(what: str, name: str) -> str:
    """The file of that name from here, or among the recipes that are installed, with or without the name of their folder before it."""
    folder = data_folder("recipes")
    names = (name, name.removeprefix("recipes/"))
    places = [Path(name), *(folder / each for each in names)]
    found = next((path for place in places for path in (place, Path(f"{place}.yaml")) if name and path.is_file()), None)
    if found is None:
        pattern = "*/*/*.yaml" if what == "recipe" else "accelerate_configs/*.yaml"
        known = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.name != "base.yaml")
        if what == "recipe":
            known = [each for each in known if (folder / each).with_name("base.yaml").is_file()]
        raise SystemExit(f"there is no {what} {name}; {_near(names[1], known)}")
    return str(found)


def _near(name: str, known: Sequence[str]) -> str:
    """The names nearest to one that is not there; all of them where none is near."""
    stem = name.removesuffix(".yaml")
    inside = [each for each in known if each.startswith(f"{stem}/")]  # a folder alone was named
    near = inside or get_close_matches(name, known, n=1, cutoff=0.7) or get_close_matches(f"{stem}.yaml", known, n=1, cutoff=0.7)
    if inside or not near:
        return f"there are {', '.join(near or known)}"
    return f"did you mean {near[0]}?"
