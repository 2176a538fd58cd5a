"""Results of several runs side by side: mean and standard deviation of each variant over its seeds, and a paired test against softmax.

python -m hf_tanhmax.training.compare results/*.json [--markdown] [--against softmax] [--figure runs.png]

The test is paired twice: the variants are compared on the same test rows and with the same seeds. For every row the outcomes (right or
wrong; cross entropy) are averaged over the seeds that both variants have, and the difference of the means is held against those that
random exchanges of the two variants give, row by row (a permutation test). So the p-value tells whether other test rows could have turned
the difference; how much the seed matters is what the standard deviation shows. Without outcomes of the rows there is no test.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import RecipeError
from ..results import Run, numbers_of, read_runs, seed_twice, settings_of, spread, table

RESAMPLES, RESAMPLE_SEED = 9999, 0
WIDTH = 100  # columns of a terminal
# What a table that is too wide leaves out, the first first; "test" is every metric of the test rows but the main one.
DISPENSABLE = ("train loss", "seconds", "test", "weight sum", "negative mass")
LEGEND = {
    "n": "runs, one per seed; a ± b is their mean and standard deviation",
    "train loss": "mean over the last tenth of the steps",
    "negative mass": "share of all absolute attention weight that is negative, on validation rows",
    "weight sum": "absolute weight that a query spends: 1 for softmax, at most 1 for TanhMax",
    "p": "two-sided, of the difference to the variant it is tested against on the same test rows, paired",
}
Group = tuple[str, str, str]


def comparison(results: Sequence[Run], *, markdown: bool = False, against: str = "softmax", width: int | None = WIDTH) -> str:
    """A table for each data set, one line per variant; on a terminal with a legend.

    Args:
        results: of runs; those that differ in anything but the seed are not put into one line.
        markdown: for a card rather than a terminal.
        against: the variant that the others are tested against, if it is there and SciPy is installed.
        width: columns of a terminal that the table must fit; what does not is left out and named. None shows all.

    Raises:
        RecipeError: one seed twice in a line, which would count it double.
    """
    by_data: dict[str, list[Run]] = {}
    for result in results:
        by_data.setdefault(_rows_of(result), []).append(result)
    if len(by_data) == 1:
        return _table(results, markdown=markdown, against=against, width=width)
    parts = []
    for number, runs in enumerate(by_data.values(), 1):
        title = f"data set {number} of {len(by_data)}, {_data_in_words(runs[0])}:"
        parts.append(f"{title}\n\n{_table(runs, markdown=markdown, against=against, width=width)}")
    return "\n\n".join(parts)


def _table(results: Sequence[Run], *, markdown: bool, against: str, width: int | None) -> str:
    groups = grouped(results)
    labels = labels_of(groups)
    able = find_spec("scipy") is not None
    tests = _tests(groups, against) if able else {}
    names = list(dict.fromkeys(name for result in results for name in numbers_of(result)))
    columns: dict[str, list[str]] = {"variant": [labels[key] for key in groups], "n": [str(len(members)) for members in groups.values()]}
    for name in names:
        digits = 1 if name == "seconds" else 4
        columns[name] = [spread([numbers_of(member).get(name) for member in members], digits=digits) for members in groups.values()]
    if tests:
        columns["p"] = [tests.get(key, "") for key in groups]
    shown = list(columns) if markdown or width is None else _fitting(columns, width)
    made = table(shown, list(zip(*(columns[name] for name in shown), strict=True)), markdown=markdown)
    if markdown:
        return made
    notes = [f"{name}: {LEGEND[name]}" for name in shown if name in LEGEND]
    if left := [name for name in columns if name not in shown]:
        notes.append(f"left out to fit {width} columns: {', '.join(left)}; hf_tanhmax.training.compare --all shows them")
    if not able and against in {variant for _, variant, _ in groups} and len(groups) > 1:
        notes.append(f"no p-values against {against}, as they need SciPy: pip install hf-tanhmax[recipes]")
    return "\n".join([made, "", *notes])


def _fitting(columns: Mapping[str, Sequence[str]], width: int) -> list[str]:
    """Names of the columns that fit, in their order: the first two and what is not in `DISPENSABLE` always do."""
    shown = list(columns)
    for name in DISPENSABLE:
        if sum(max(len(cell) for cell in (each, *columns[each])) + 2 for each in shown) - 2 <= width:
            break
        shown = [each for each in shown if each != name and not (name == "test" and each.startswith("test ") and each != _main(columns))]
    return shown


def same_rows(one: Run, other: Run) -> bool:
    """Whether two runs were measured on the same rows, whatever their files are called on the Hub."""
    counts = [run.get("data", {}).get("rows") for run in (one, other)]
    return _rows_of(one) == _rows_of(other) and counts[0] == counts[1]


def _main(columns: Mapping[str, object]) -> str | None:
    """The column of the main metric of the test rows, which comes before the others of them."""
    return next((name for name in columns if name.startswith("test ")), None)


def _rows_of(run: Run) -> str:
    """What tells the data sets of two runs apart: where the rows came from, and the digests of files; not what the files are called."""
    return repr(sorted((key, repr(value)) for key, value in run.get("data", {}).items() if key not in ("rows", "dataset")))


def _data_in_words(run: Run) -> str:
    data = run.get("data", {})
    config = f" ({data['config']})" if data.get("config") else ""
    digests = ", ".join(f"{name} {digest[:8]}" for name, digest in data.get("sha256", {}).items())
    rows = ", ".join(f"{count:,} {split} rows" for split, count in data.get("rows", {}).items())
    return "; ".join(part for part in (f"{data.get('source', 'unknown')}{config}", digests, rows) if part)


def grouped(results: Sequence[Run]) -> dict[Group, list[Run]]:
    """Runs that differ in the seed alone, together.

    Raises:
        RecipeError: one seed twice.
    """
    groups: dict[Group, list[Run]] = {}
    for result in results:
        groups.setdefault((result["recipe"], result["variant"], settings_of(result)), []).append(result)
    labels = labels_of(groups)
    for key, members in groups.items():
        twice = seed_twice(members)
        if twice is not None:
            raise RecipeError(f"seed {twice} of {labels[key]} is given twice; a run counts once")
    return groups


def labels_of(groups: Mapping[Group, Sequence[Run]]) -> dict[Group, str]:
    """The variant's name, with the recipe where there are several.

    Where one variant was run with several settings, the attention in words is added if that tells them apart, else a number.
    """
    several = len({recipe for recipe, _, _ in groups}) > 1
    labels: dict[Group, str] = {}
    for key in groups:
        name = f"{key[0]}--{key[1]}" if several else key[1]
        same = [other for other in groups if other[:2] == key[:2]]
        words = [groups[other][0].get("attention") for other in same]
        if len(same) > 1:
            name += f" ({groups[key][0]['attention']})" if len(set(words)) == len(same) else f" #{same.index(key) + 1}"
        labels[key] = name
    return labels


def paired_p(first: Sequence[Run], second: Sequence[Run]) -> float | None:
    """Two-sided p-value of the difference between two variants on the same test rows; None where it cannot be told.

    Args:
        first: runs of one variant, in any order of seeds.
        second: runs of the other; only seeds that both have are used.
    """
    import numpy as np
    from scipy.stats import permutation_test

    one, other = ({run["seed"]: _outcomes(run) for run in runs} for runs in (first, second))
    seeds = sorted(set(one) & set(other))
    if not seeds or len({len(rows) for side in (one, other) for seed, rows in side.items() if seed in seeds}) != 1 or not one[seeds[0]]:
        return None
    means = [np.mean([side[seed] for seed in seeds], axis=0) for side in (one, other)]

    def difference(left: np.ndarray, right: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean(left - right, axis=axis)

    options = {"permutation_type": "samples", "n_resamples": RESAMPLES, "batch": 500, "rng": np.random.default_rng(RESAMPLE_SEED)}
    return float(permutation_test(means, difference, vectorized=True, **options).pvalue)


def main(arguments: list[str]) -> int:
    """Read the files, print the table; 2 if something the user gave cannot work."""
    shown = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m hf_tanhmax.training.compare", **shown)  # type: ignore[arg-type]
    parser.add_argument("files", nargs="+", type=Path, metavar="RESULT.json", help="results of runs or of variants")
    parser.add_argument("--markdown", action="store_true", help="a table for a card")
    parser.add_argument("--all", action="store_true", help=f"show all columns, also beyond {WIDTH} characters")
    parser.add_argument("--against", default="softmax", metavar="VARIANT", help="test the others against it (default: softmax)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw every run (.png or .svg)")
    chosen = parser.parse_args(arguments)
    try:
        results = [run for file in chosen.files for run in read_runs(file)]
        print(comparison(results, markdown=chosen.markdown, against=chosen.against, width=None if chosen.all else WIDTH))
        if chosen.figure is not None:
            _draw(results, chosen.figure)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _draw(results: list[Run], path: Path) -> None:
    from .plots import comparison_figure

    if len({_rows_of(run) for run in results}) > 1:
        raise RecipeError("no figure: the runs are of several data sets; draw those of each by themselves")
    metric = next(name for name in numbers_of(results[0]) if name.startswith("test "))
    groups = grouped(results)
    labels = labels_of(groups)
    lines = [(labels[key], [numbers_of(run).get(metric) for run in runs]) for key, runs in groups.items()]
    known = [(label, [value for value in values if value is not None]) for label, values in lines]
    shown = [(label, values) for label, values in known if values]
    if not shown or path.suffix not in (".png", ".svg"):
        raise RecipeError(f"no figure: {'no run has test data' if not shown else f'{path} must end in .png or .svg'}")
    comparison_figure(shown, metric, path)


def _tests(groups: Mapping[Group, Sequence[Run]], against: str) -> dict[Group, str]:
    """For every other variant its p-value against the one named, in words; empty where none can be told."""
    bases = [key for key in groups if key[1] == against]
    found = {}
    for key, runs in groups.items():
        same = [base for base in bases if _comparable(groups[base][0], runs[0]) and base != key]
        if key not in bases and len(same) == 1 and (p := paired_p(runs, groups[same[0]])) is not None:
            found[key] = f"{p:.3f}" if p >= 0.001 else "< 0.001"
    return found


def _comparable(one: Run, other: Run) -> bool:
    """Whether two runs had the same rows, and trained all weights or adapters alike."""
    adapted = [run.get("config", {}).get("lora_rank") for run in (one, other)]
    return same_rows(one, other) and adapted[0] == adapted[1]


def _outcomes(run: Run) -> list[float]:
    return [float(value) for value in run.get("outcomes", {}).get("test", "").split()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
