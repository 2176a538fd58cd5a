"""The `hf-tanhmax` command: its words, its help, and the doors to recipes, which run in a process of their own.

Nothing heavy is imported here: `commands.py` is, once one of its commands is asked for. Exit codes: 0; 1 if the doctor found errors; 2 for
a mistake in what was given, with one sentence; 130 for Ctrl-C; else what the process that was started returned.
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from types import FrameType
from typing import NoReturn

MISTAKE, STOPPED = 2, 130
RECIPES = "recipes"  # a package of the same distribution, which is run and never imported

SUMMARY = """\
TanhMax attention for Hugging Face Transformers: attention weights with a sign.

`hf-tanhmax COMMAND --help` explains a command and shows examples.
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without all of the usage."""

    def error(self, message: str) -> NoReturn:
        """End with the sentence, which `main` prints."""
        raise SystemExit(f"{message}; see {self.prog} --help")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code.

    Args:
        arguments: what follows the name of the program; None takes it from the command line.
    """
    try:
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except KeyboardInterrupt:
        return STOPPED
    except SystemExit as end:
        if isinstance(end.code, str):
            print(f"error: {end.code}", file=sys.stderr)
            return MISTAKE
        return end.code or 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hf-tanhmax", description=SUMMARY, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"hf-tanhmax {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_convert(commands)
    _add_doors(commands)
    _add_push(commands)
    _add_card(commands)
    _add_doctor(commands)
    return parser


def _version() -> str:
    try:
        return metadata.version("hf-tanhmax")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _command(
    commands: "argparse._SubParsersAction[_Parser]", name: str, summary: str, *examples: str, more: str = "", usage: str | None = None
) -> _Parser:
    shown = "\n".join(f"  hf-tanhmax {name} {example}".rstrip() for example in examples)
    text = f"{summary}\n\n{more}".strip()
    raw = argparse.RawDescriptionHelpFormatter
    called = None if usage is None else f"hf-tanhmax {name} {usage}"
    parser = commands.add_parser(name, help=summary, description=text, epilog=f"examples:\n{shown}", formatter_class=raw, usage=called)
    parser.set_defaults(run=_package_command, command=name)
    return parser


def _add_convert(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parser = _command(
        commands,
        "convert",
        "make a TanhMax checkpoint of a softmax one (BERT, ViT, LLaMA)",
        "google-bert/bert-base-uncased bert-tanhmax --task text-classification --num-labels 3 --polarity 0",
        "./my-softmax-model my-tanhmax-model --layers 0,1,2",
        "HuggingFaceTB/SmolLM2-135M smollm2-tanhmax --polarity learned",
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder, or a name on the Hub")
    parser.add_argument("out", metavar="OUT", help="a new folder")
    head = parser.add_mutually_exclusive_group()
    head.add_argument("--task", help="what for, such as text-classification; without it, what the checkpoint was saved for")
    head.add_argument("--auto-class", metavar="CLASS", help="the same as an Auto class of Transformers")
    parser.add_argument("--polarity", type=_polarity, default=1.0, help='0 is softmax, 1 (default) TanhMax, "learned" one for each head')
    parser.add_argument("--layers", type=_indices, metavar="0,1,...", help="the layers that compute TanhMax; the others stay softmax")
    parser.add_argument("--heads", type=_indices, metavar="0,1,...", help="the heads of each layer that do")
    parser.add_argument("--score-bias", type=float, default=3.0, metavar="C", help="where a learned polarity exp(-2C) starts; default 3")
    parser.add_argument("--num-labels", type=int, metavar="N", help="classes of a new head")
    parser.add_argument("--revision", help="of a name on the Hub: a commit, tag or branch")


def _add_doors(commands: "argparse._SubParsersAction[_Parser]") -> None:
    train = _command(
        commands,
        "train",
        "train a recipe, through `accelerate launch`",
        "recipes/bert/text_classification/tanhmax.yaml --compare_with softmax",
        "bert/text_classification/annealed.yaml --model_name_or_path google-bert/bert-base-uncased --dataset imdb",
        "vit/image_classification/tanhmax.yaml --config_file recipes/accelerate_configs/ddp.yaml",
        more="`hf-tanhmax train RECIPE --help` lists every key. A recipe is found from here, or among those that are installed.\n"
        "Ctrl-C lets the step that runs end and saves a checkpoint; `--resume` continues from it.",
        usage="[--config_file FILE] RECIPE [--key value ...]",
    )
    train.add_argument("--config_file", metavar="FILE", help="of accelerate: how many processes, where")
    train.add_argument("arguments", nargs=argparse.REMAINDER, metavar="RECIPE [--key value ...]", help="a YAML file, and keys to change")
    train.set_defaults(run=_train)
    evaluate = _command(
        commands,
        "evaluate",
        "measure a trained model again, on its own rows or on others",
        "runs/bert--text_classification--tanhmax--seed0",
        "runs/bert--text_classification--tanhmax--seed0 --test_file other.csv",
        usage="FOLDER [--key value ...]",
    )
    bench = _command(
        commands,
        "bench",
        "measure speed and accuracy of attention on this machine",
        "attention",
        "attention --device cuda --head-dims 64 128",
        "accuracy",
        usage="BENCHMARK [--key value ...]",
    )
    for parser, module in ((evaluate, "evaluate"), (bench, "benchmark")):
        parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help=f"passed on to python -m {RECIPES}.{module}")
        parser.set_defaults(run=_run_module, module=f"{RECIPES}.{module}")


def _add_push(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parser = _command(
        commands,
        "push",
        "publish a checkpoint or a run's folder on the Hub",
        "runs/bert--text_classification--annealed--seed0 you/bert-tanhmax-sst2 --private",
        "runs/bert--text_classification--lora--seed0 you/bert-tanhmax-lora --merge",
        more="Only what loading needs is sent, with the card and the results. Log in with `hf auth login`, or set HF_TOKEN.",
    )
    parser.add_argument("path", metavar="PATH", help="the folder of a checkpoint or a run")
    parser.add_argument("repo", metavar="REPO", help="owner/name")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="a branch; default main")
    parser.add_argument("--message", help="the title of the commit")
    parser.add_argument("--merge", action="store_true", help="publish an adapter and its base as one model")


def _add_card(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parser = _command(
        commands,
        "card",
        "write the model card of a checkpoint or a run's folder",
        "runs/bert--text_classification--annealed--seed0 --repo you/bert-tanhmax-sst2 --overwrite",
        "my-model --results results/bert--masked_lm--annealed.json --compare_with results/bert--masked_lm--softmax.json",
    )
    parser.add_argument("path", metavar="PATH", help="the folder of a checkpoint or a run")
    parser.add_argument("--repo", help="owner/name, from which the code on the card loads")
    parser.add_argument("--results", nargs="+", metavar="FILE", help="results of its seeds; default PATH/results.json")
    parser.add_argument("--compare_with", nargs="+", metavar="FILE", default=[], help="results of others, to stand beside in a table")
    parser.add_argument("--out", metavar="FILE", help="default PATH/README.md")
    parser.add_argument("--overwrite", action="store_true", help="replace a card that is there")
    parser.add_argument("--base-model", metavar="NAME", help="the model on the Hub that it was made from")
    parser.add_argument("--license", help="as the Hub writes it, such as apache-2.0; default that of the base model, if its card says one")
    parser.add_argument("--language", help="of the data, such as en")


def _add_doctor(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parser = _command(
        commands,
        "doctor",
        "examine this environment, or a checkpoint",
        "",
        "runs/bert--text_classification--annealed--seed0",
        more="Ends with 1 if there are errors. Nothing is unpickled, and no code that a checkpoint brings along is run.",
    )
    parser.add_argument("path", metavar="PATH", nargs="?", help="the folder of a checkpoint; without it, the environment is examined")


def _polarity(text: str) -> float | str:
    try:
        return text if text == "learned" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'must be a number in [0, 1] or "learned", but is {text!r}') from None


def _indices(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between them, such as 0,1, but is {text!r}") from None


def _package_command(options: argparse.Namespace) -> int:
    from . import commands

    return int(getattr(commands, f"run_{options.command}")(options))


def _train(options: argparse.Namespace) -> int:
    given = list(options.arguments)
    if "--config_file" in given[:-1]:
        position = given.index("--config_file")
        options.config_file = given[position + 1]
        del given[position : position + 2]
    if not given or given[0].startswith("-"):
        raise SystemExit("name a recipe first, such as bert/text_classification/tanhmax.yaml; see hf-tanhmax train --help")
    recipe = _recipe_file("recipe", given[0])
    if {"--help", "-h"} & set(given):
        return _run([sys.executable, "-m", f"{RECIPES}.train", recipe, "--help"])
    _need("accelerate")
    config = [] if options.config_file is None else ["--config_file", _recipe_file("config_file", options.config_file)]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *config, "-m", f"{RECIPES}.train"]
    return _run([*launch, recipe, *given[1:]], launcher=True)


def _run_module(options: argparse.Namespace) -> int:
    _need(RECIPES)
    return _run([sys.executable, "-m", options.module, *options.arguments])


def _need(package: str) -> None:
    if util.find_spec(package) is None:
        raise SystemExit(f"{package} is not installed; pip install hf-tanhmax[recipes]")


def _recipe_file(what: str, name: str) -> str:
    """The file of that name from here, or among the recipes that are installed, with or without the name of their folder before it."""
    _need(RECIPES)
    spec = util.find_spec(RECIPES)
    folder = Path(str(spec and spec.origin)).parent
    found = next((path for path in (Path(name), folder.parent / name, folder / name) if path.is_file()), None)
    if found is None:
        pattern = "*/*/*.yaml" if what == "recipe" else "accelerate_configs/*.yaml"
        known = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.name != "base.yaml")
        raise SystemExit(f"there is no {what} {name}; there are {', '.join(known)}")
    return str(found)


def _run(command: Sequence[str], *, launcher: bool = False) -> int:
    """Run a program to its end, and pass on what is to stop it.

    The program has a session of its own, so that Ctrl-C comes here alone. A launcher would die of it and leave its workers behind, which
    want to save a checkpoint first; so they are told, and the launcher waits for them as it always does.
    """
    received: list[int] = []
    process = subprocess.Popen(list(command), start_new_session=True)

    def _pass_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        _signal(process.pid, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM, to_children=launcher)

    before = {number: signal.signal(number, _pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        return 128 + received[0]
    return code if code >= 0 else 128 - code


def _signal(process: int, number: int, *, to_children: bool) -> None:
    import psutil  # which accelerate needs too

    try:
        found = psutil.Process(process)
        for target in (found.children() if to_children else []) or [found]:
            target.send_signal(number)
    except psutil.NoSuchProcess:  # it has ended by itself
        return
