"""How much of the plan has been run, and how long the rest will take: `python -m recipes.verdict status`."""

import statistics

from hf_tanhmax.results import table

from ..command_line import Parser, exit_codes
from .plan import Plan, read_plan
from .results import Line, cells_of, line_of, read_all
from .run import add_places

HOUR = 3600


@exit_codes()
def main(arguments: list[str]) -> int:
    """Print the table; 0 if it went well, 2 if something given cannot work."""
    parser = Parser(prog="python -m recipes.verdict status", description=__doc__)
    add_places(parser)
    chosen = parser.parse_args(arguments)
    plan = read_plan(chosen.plan)
    print(progress(plan, read_all(chosen.results, plan)))
    return 0


def progress(plan: Plan, lines: dict[str, list[Line]], *, markdown: bool = False) -> str:
    """A line for each task: cells of the grid and of the comparison that are done, and hours of one core that are left.

    The time of a cell is the mean of those of its task that are done, which the machine's other work does not enter.
    """
    rows, done, count = [], 0, 0
    for task in plan.tasks.values():
        cells, found = cells_of(plan, task), lines[task.name]
        is_there = {cell: line_of(found, cell, plan) is not None for cell in cells}
        grid = [is_there[cell] for cell in cells if cell.learning_rate is not None]
        rest = [is_there[cell] for cell in cells if cell.learning_rate is None]
        missing = sum(not each for each in is_there.values())
        hours = statistics.fmean(line["seconds"] for line in found) * missing / HOUR if found else None
        rows.append([task.name, f"{sum(grid)} of {len(grid)}", f"{sum(rest)} of {len(rest)}", "-" if hours is None else f"{hours:.1f}"])
        done, count = done + sum(is_there.values()), count + len(cells)
    header = ["task", "learning rates", "seeds", "hours left on one core"]
    return f"{table(header, rows, markdown=markdown)}\n\n{done} of {count} cells are done."
