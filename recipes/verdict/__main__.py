"""`python -m recipes.verdict run`, `pace`, `status` and `report`; each says more with `--help`."""

import importlib
import sys

# Modules of this folder with a `main`.
COMMANDS = ("run", "pace", "status", "report")


def main(arguments: list[str]) -> int:
    """Run a command; 2 if there is no such command."""
    if not arguments or arguments[0] not in COMMANDS:
        print(f"{__doc__}\ncommands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return int(importlib.import_module(f"recipes.verdict.{arguments[0]}").main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
