"""`python -m recipes.conversion run`, `cost`, `ablation` and `language_models` measure, `table` prints; each says more with `--help`."""

import importlib
import sys

# Modules of this folder with a `main`.
COMMANDS = ("run", "cost", "ablation", "table", "language_models", "language_table", "pattern")


def main(arguments: list[str]) -> int:
    """Run a command; 2 if there is no such command."""
    if not arguments or arguments[0] not in COMMANDS:
        print(f"{__doc__}\ncommands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return int(importlib.import_module(f"recipes.conversion.{arguments[0]}").main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
