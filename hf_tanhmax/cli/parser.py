"""The parser of the `hf-tanhmax` command, and how one of its commands is added and run."""

import argparse
from importlib import import_module
from typing import NoReturn, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without all of the usage."""

    def error(self, message: str) -> NoReturn:
        """End with the sentence, which `main` prints."""
        raise SystemExit(f"{message}; see {self.prog} --help")


def add_command(commands: Commands, name: str, summary: str, *examples: str, more: str = "", usage: str | None = None) -> Parser:
    """Add a command with its help; `examples` follow its name, `more` its summary."""
    shown = "\n".join(f"  hf-tanhmax {name} {example}".rstrip() for example in examples)
    text = f"{summary}\n\n{more}".strip()
    raw = argparse.RawDescriptionHelpFormatter
    called = None if usage is None else f"hf-tanhmax {name} {usage}"
    parser = commands.add_parser(name, help=summary, description=text, epilog=f"examples:\n{shown}", formatter_class=raw, usage=called)
    parser.set_defaults(run=_run, command=name, module="commands")
    return parser


def _run(options: argparse.Namespace) -> int:
    """Look for mistakes, and only then import the package, which takes seconds, and run the command."""
    options.check(options)

    from ..models.registered import register

    register()
    module = import_module(f".{options.module}", __package__)
    return int(getattr(module, f"run_{options.command.replace('-', '_')}")(options))
