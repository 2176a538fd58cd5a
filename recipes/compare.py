"""Results of several runs side by side: mean and standard deviation of each variant over its seeds.

python -m recipes.compare results/*.json [--markdown]
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import RecipeError

USAGE = """\
usage: python -m recipes.compare RESULT.json ... [--markdown]

Prints one line per variant: n runs, and the mean ± standard deviation (n - 1) of each number over their seeds. Runs that differ in
anything but seed and attention are not put into one line.
"""


def comparison(results: Sequence[dict[str, Any]], *, markdown: bool = False) -> str:
    """The table.

    Raises:
        RecipeError: one seed twice in a line, which would count it double.
    """
    from .results import formatted, numbers_of, table

    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["recipe"], result["variant"], _settings(result)), []).append(result)
    labels = _labels(list(groups))
    header = ["variant", "n", *numbers_of(results[0])]
    rows = []
    for key, members in groups.items():
        seeds = [member["seed"] for member in members]
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            raise RecipeError(f"seed {twice} of {labels[key]} is given twice; a run counts once")
        columns = [numbers_of(member) for member in members]
        cells = [formatted(name, *_summary([column[name] for column in columns])) for name in header[2:]]
        rows.append([labels[key], str(len(members)), *cells])
    return table(header, rows, markdown=markdown)


def main(arguments: list[str]) -> int:
    """Read the files, print the table; 2 if something the user gave cannot work."""
    from .results import read_results

    if "--help" in arguments or not arguments:
        sys.stdout.write(USAGE)
        return 0 if arguments else 2
    flags = [argument for argument in arguments if argument.startswith("-")]
    try:
        if set(flags) - {"--markdown"}:
            raise RecipeError(f"unknown option {(set(flags) - {'--markdown'}).pop()}; there is --markdown")
        files = [argument for argument in arguments if not argument.startswith("-")]
        if not files:
            raise RecipeError("name at least one result file")
        print(comparison([read_results(Path(file)) for file in files], markdown="--markdown" in flags))
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _settings(result: dict[str, Any]) -> str:
    """What must agree within a line: all keys but the seed, and the data."""
    kept = {key: value for key, value in result.get("config", {}).items() if key != "seed"}
    return repr((sorted(kept.items()), result.get("data")))


def _labels(keys: list[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """The variant's name; with the recipe where there are several; numbered where one variant was run with several settings."""
    several = len({recipe for recipe, _, _ in keys}) > 1
    labels: dict[tuple[str, str, str], str] = {}
    for key in keys:
        name = f"{key[0]}--{key[1]}" if several else key[1]
        same = [other for other in keys if other[:2] == key[:2]]
        labels[key] = name if len(same) == 1 else f"{name} #{same.index(key) + 1}"
    return labels


def _summary(values: list[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
