"""The questions of the plan and their answers: comparisons of each map with softmax, with corrected p, and whether they count as yes."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from .plan import CLASSIFIED, SYNTHETIC, Plan, Task
from .results import Line, Paces, compared
from .statistics import Array, Difference, holm, paired

POINTS = 0.02  # the least gain in accuracy that counts where something must be subtracted
MAJORITY = 0.8  # of the seeds, which is four of five
Compared = dict[str, dict[int, Line]]  # by map and seed


@dataclass(frozen=True)
class Measure:
    """What was measured of a trained model: 1 if higher is better or -1, and how it is read from a line; None where it is not there."""

    better: int
    read: Callable[[Line], float | None]

    def of(self, line: Line) -> float | None:
        """The value; None also of a model whose training diverged, of which nothing was measured."""
        return self.read(line) if line["measured"] else None


SINKS = {
    "sink share": Measure(-1, lambda line: line["measured"]["attention"]["sink_share"]),
    "kurtosis": Measure(-1, lambda line: line["measured"]["kurtosis"]["largest"]),
    "int8, loss added": Measure(-1, lambda line: _loss_added(line, "int8")),
    "int4, loss added": Measure(-1, lambda line: _loss_added(line, "int4")),
}
COLLAPSE = {"residual ratio": Measure(1, lambda line: line["measured"]["collapse"]["attention_alone"][-1])}
FAITHFULNESS = {"tau": Measure(1, lambda line: line["measured"].get("faithfulness", {}).get("tau"))}


@dataclass(frozen=True)
class Answer:
    """One comparison.

    Attributes:
        task, part, map_name: what is compared; `part` is that of the test, or what was measured.
        difference: of the map and softmax, in the unit of the measure.
        better: 1 if higher is better, else -1.
        p: corrected over all comparisons of the question.
        yes: whether it counts as yes.
    """

    task: str
    part: str
    map_name: str
    difference: Difference
    better: int
    p: float = 1.0
    yes: bool = False

    def is_significant(self, level: float, *, worse: bool = False) -> bool:
        """Whether the difference is in the map's favour, or against it, beyond chance."""
        sign = -self.better if worse else self.better
        return self.p < level and sign * self.difference.mean > 0


@dataclass(frozen=True)
class Count:
    """A question that is answered seed by seed: how many of the seeds say yes."""

    task: str
    map_name: str
    seeds_yes: int
    seeds: int
    planned: int
    details: dict[str, float]

    @property
    def yes(self) -> bool:
        """In at least four fifths of the seeds of the plan."""
        return self.seeds_yes >= math.ceil(MAJORITY * self.planned)


def quality(plan: Plan, lines: dict[str, list[Line]]) -> list[Answer]:
    """Question 1: accuracy or loss on data that were not generated."""
    tasks = [task for task in plan.tasks.values() if task.kind != SYNTHETIC]
    return _corrected(plan, _on_tests(plan, tasks, lines), len(tasks))


def subtraction(plan: Plan, lines: dict[str, list[Line]]) -> list[Answer]:
    """Question 2: accuracy where something must be subtracted."""
    tasks = [task for task in plan.tasks.values() if task.kind == SYNTHETIC]
    parts = sum(len(task.distractors) for task in tasks)
    return _corrected(plan, _on_tests(plan, tasks, lines), parts, least=POINTS)


def _on_tests(plan: Plan, tasks: Iterable[Task], lines: dict[str, list[Line]]) -> list[Answer]:
    answers = []
    for task in tasks:
        found = compared(lines[task.name], plan)
        for name, seeds in _pairs(plan, found):
            baseline, mine = found[plan.baseline], found[name]
            for part in mine[seeds[0]]["test"]:
                rows = [_rows(mine[seed], part, task) - _rows(baseline[seed], part, task) for seed in seeds]
                means = [_metric(mine[seed], part, task) - _metric(baseline[seed], part, task) for seed in seeds]
                difference = paired(means, np.mean(rows, axis=0))
                answers.append(Answer(task.name, part, name, difference, 1 if task.classifies else -1))
    return answers


def measured(plan: Plan, lines: dict[str, list[Line]], measures: dict[str, Measure]) -> list[Answer]:
    """Questions 4 to 6: something that was measured, with a test over seeds.

    Args:
        plan: what is compared.
        lines: by task.
        measures: by name.
    """
    answers = []
    tasks = [task for task in plan.tasks.values() if measures is not FAITHFULNESS or is_explained(task)]
    for task in tasks:
        found = compared(lines[task.name], plan)
        for name, seeds in _pairs(plan, found):
            for title, measure in measures.items():
                pairs = [(measure.of(found[name][seed]), measure.of(found[plan.baseline][seed])) for seed in seeds]
                values = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
                if values:
                    answers.append(Answer(task.name, title, name, paired(values), measure.better))
    return _corrected(plan, answers, len(tasks) * len(measures))


def both_signs(plan: Plan, lines: dict[str, list[Line]]) -> list[Count]:
    """Question 3: seeds in which masking either sign costs something, and so does changing which keys are negative."""
    counts = []
    for task in plan.tasks.values():
        for name, by_seed in compared(lines[task.name], plan).items():
            measured_lines = [line["measured"] for line in by_seed.values() if line["measured"]]
            effects = [found["signs"]["effects"] for found in measured_lines if found["signs"]]
            if effects:
                means = {key: float(np.mean([each[key]["cost"] for each in effects])) for key in effects[0]}
                counts.append(Count(task.name, name, sum(map(carry_both, effects)), len(by_seed), len(plan.seeds), means))
    return counts


def carry_both(effects: dict[str, dict[str, float]]) -> bool:
    """Whether the effects of one model say that both signs carry information."""
    costs = {name: effect["low"] > 0 for name, effect in effects.items()}
    pattern = costs["negatives_spread"] or costs["negatives_permuted"]
    return costs["negatives_masked"] and costs["positives_masked"] and pattern


def speed(plan: Plan, lines: dict[str, list[Line]], paces: Paces) -> list[Count]:
    """Question 7: seeds in which softmax's final validation loss is reached in less processor time than softmax took.

    For tasks of `plan.by_accuracy` it is softmax's smallest loss, and the time that softmax took to it.

    Args:
        plan: the plan.
        lines: of its tasks.
        paces: time per step over softmax's, measured side by side, by task and map; for other tasks the runs' own times count.

    Returns:
        Counts whose `details` hold `seconds_per_step`, times softmax's, and `reached`, the share of seeds that reach that loss at all.
    """
    counts = []
    for task in plan.tasks.values():
        found = compared(lines[task.name], plan)
        for name, seeds in _pairs(plan, found):
            faster, reached, ratios = 0, 0, []
            for seed in seeds:
                mine, theirs = found[name][seed]["training"], found[plan.baseline][seed]["training"]
                least = min(theirs["curve"], key=lambda point: point[1])
                steps, goal = least if task.name in plan.by_accuracy else (theirs["steps"], theirs["curve"][-1][1])
                step = next((step for step, loss in mine["curve"] if loss <= goal), None)
                ratio = paces.get(task.name, {}).get(name, mine["step_seconds"] / theirs["step_seconds"])
                reached += step is not None
                faster += step is not None and step * ratio < steps
                ratios.append(ratio)
            details = {"seconds_per_step": float(np.median(ratios)), "reached": reached / len(seeds)}
            counts.append(Count(task.name, name, faster, len(seeds), len(plan.seeds), details))
    return counts


def good_for_something(plan: Plan, lines: dict[str, list[Line]], paces: Paces) -> dict[str, list[str]]:
    """By map, what the plan calls good for something: where there is a yes in 1, 2, 4, 6 or 7, without a loss in 1 on that task.

    Speed counts where quality was lost nowhere; generated tasks have no part in question 1.
    """
    first = quality(plan, lines)
    worse = {(answer.map_name, answer.task) for answer in first if answer.is_significant(plan.level, worse=True)}
    tested = [
        *first,
        *subtraction(plan, lines),
        *measured(plan, lines, SINKS),
        *measured(plan, lines, FAITHFULNESS),
    ]
    found: dict[str, list[str]] = {name: [] for name in plan.maps[1:]}
    for answer in tested:
        if answer.yes and (answer.map_name, answer.task) not in worse:
            found[answer.map_name].append(f"{answer.task}: {answer.part}")
    for count in speed(plan, lines, paces):
        if count.yes and (count.map_name, count.task) not in worse:
            found[count.map_name].append(f"{count.task}: speed")
    return found


def is_explained(task: Task) -> bool:
    """Whether faithfulness is measured of a task."""
    return task.kind == CLASSIFIED or task.name == "negation"


def _pairs(plan: Plan, found: Compared) -> list[tuple[str, list[int]]]:
    """Maps other than softmax, with the seeds of which both models are there."""
    pairs = [(name, sorted(set(found[name]) & set(found[plan.baseline]))) for name in plan.maps[1:]]
    return [(name, seeds) for name, seeds in pairs if seeds]


def _corrected(plan: Plan, answers: list[Answer], places: int, *, least: float = 0.0) -> list[Answer]:
    """Answers with p corrected over all comparisons of the question; those that are not there yet count as if their p were 1.

    Args:
        plan: says how many maps, and the level.
        answers: that are there.
        places: how many comparisons the plan has for each map.
        least: the size from which on a difference counts as yes.
    """
    missing = max(0, places * (len(plan.maps) - 1) - len(answers))
    corrected = holm([*(answer.difference.p for answer in answers), *[1.0] * missing])
    found = [replace(answer, p=p) for answer, p in zip(answers, corrected, strict=False)]
    seeds = len(plan.seeds)
    return [
        replace(each, yes=each.is_significant(plan.level) and abs(each.difference.mean) >= least and each.difference.n == seeds)
        for each in found
    ]


def _metric(line: Line, part: str, task: Task) -> float:
    return float(line["test"][part]["accuracy" if task.classifies else "loss"])


def _rows(line: Line, part: str, task: Task) -> Array:
    found = line["test"][part]
    return np.array([float(each) for each in (found["right"] if task.classifies else found["losses"])])


def _loss_added(line: Line, kind: str) -> float:
    found = line["measured"]["quantised"]
    return float(found[kind]["loss"] - found["float"]["loss"])
