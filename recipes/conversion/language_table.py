"""What was measured of language models, as a table: a row for each way, as converted, and one more where it was fine-tuned.

python -m recipes.conversion language_table [--results DIR] [--markdown]
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.results import read_lines, table

from ..command_line import Parser, exit_codes
from . import language_models
from .language_models import FILE, UNTUNED, LanguagePlan
from .plan import RESULTS

Line = dict[str, Any]


@exit_codes()
def main(arguments: list[str]) -> int:
    """Print the table; 2 if there are no results."""
    parser = Parser(prog="python -m recipes.conversion language_table", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--markdown", action="store_true", help="for a document")
    chosen = parser.parse_args(arguments)
    print(rendered(chosen.results, markdown=chosen.markdown))
    return 0


def rendered(folder: Path = RESULTS, *, markdown: bool = True) -> str:
    """Negative mass; perplexity over that of softmax with the same fine-tuning; KL; greedy tokens that are those of softmax.

    Perplexities of kinds of text are joined by their geometric mean. Means are over seeds; where there are several, with the standard
    deviation and their number.

    Raises:
        RecipeError: no results in the folder, or a file that cannot be read.
    """
    plan, path = language_models.read_plan(), folder / FILE
    try:
        lines: Any = read_lines(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"there are no results in {folder}, or they cannot be read: {error}") from error
    known = (UNTUNED, *plan.tunings)
    unknown = next((line["tuned"] for line in lines if line["tuned"] not in known), None)
    if unknown is not None:
        raise RecipeError(f"{path.name} holds a line of the fine-tuning {unknown!r}, which is none of the plan: {', '.join(plan.tunings)}")
    header = ["way", "negative mass", "calibrated on", "held out", "KL, nats per token", "same tokens", "log-likelihood"]
    rows = []
    for name, way in plan.ways.items():
        for tuned in (UNTUNED, *plan.tunings):
            found = [line for line in lines if line["way"] == name and line["tuned"] == tuned]
            softmax = [line for line in lines if line["way"] == "softmax" and line["tuned"] == tuned]
            if found:
                title = f"{way.title}, {plan.tunings[tuned].title}" if tuned else way.title
                rows.append([title, *_cells(found, softmax, plan)])
    return table(header, rows, markdown=markdown)


def ratio(line: Line, softmax: Line, kinds: Sequence[str]) -> float:
    """Perplexity over that of softmax, geometric mean over kinds of text."""
    return math.exp(statistics.fmean(math.log(line["test"][kind]["perplexity"] / softmax["test"][kind]["perplexity"]) for kind in kinds))


def _ratios(found: list[Line], softmax: list[Line], kinds: Sequence[str]) -> list[float]:
    """Each beside the softmax model that was fine-tuned on the same rows; as it came, that model is the same for every seed."""
    if found[0]["tuned"] == UNTUNED:
        return [ratio(line, softmax[0], kinds) for line in found if softmax]
    by_seed = {line["seed"]: line for line in softmax}
    return [ratio(line, by_seed[line["seed"]], kinds) for line in found if line["seed"] in by_seed]


def _cells(found: list[Line], softmax: list[Line], plan: LanguagePlan) -> list[str]:
    cells = [_mean([line["signs"]["overall"]["negative_mass"] for line in found])]
    for kinds in (plan.calibrated, plan.held_out):
        cells.append(_mean(_ratios(found, softmax, kinds)))
    divergences = [statistics.fmean(line["test"][kind]["kl"] for kind in plan.kinds) for line in found]
    cells.append("-" if found[0]["tuned"] else _mean(divergences))
    said = [line["continuations"] for line in found if "continuations" in line]
    if not said:
        return [*cells, "-", "-"]
    agreement, likelihood = (statistics.fmean(each[key] for each in said) for key in ("agreement", "log_likelihood"))
    return [*cells, f"{100 * agreement:.0f} %", f"{likelihood:.2f}"]


def _mean(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.3f} ({len(values)})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"
