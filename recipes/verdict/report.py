"""`REPORT.md`, rendered from the results: `python -m recipes.verdict report`. What has not been run yet is said to be missing."""

import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

from hf_tanhmax.results import spread, table

from ..command_line import Parser, exit_codes
from . import questions
from .maps.registry import MAPS
from .measurements.signs import INTERVENTIONS
from .plan import AMENDMENTS, SYNTHETIC, Plan, Task, read_plan
from .questions import Answer, Count
from .results import Line, Paces, chosen_rate, compared, planned_rate, read_all, read_paces
from .run import add_places
from .status import progress

REPORT = Path(__file__).with_name("REPORT.md")
SMALLEST = 0.001  # p that is shown
PRELIMINARY = "**Preliminary**: not all models of the plan have been trained, and what is missing counts as no."
NEITHER = "neither"  # sign of the weights carries information
Lines = dict[str, list[Line]]


@exit_codes()
def main(arguments: list[str]) -> int:
    """Write the report; 0 if it went well, 2 if something given cannot work."""
    parser = Parser(prog="python -m recipes.verdict report", description=__doc__)
    add_places(parser)
    parser.add_argument("--output", type=Path, default=REPORT, metavar="FILE")
    chosen = parser.parse_args(arguments)
    plan = read_plan(chosen.plan)
    chosen.output.write_text(report(plan, read_all(chosen.results, plan), read_paces(chosen.results, plan)), encoding="utf-8")
    print(f"report: {chosen.output}")
    return 0


def report(plan: Plan, lines: Lines, paces: Paces) -> str:
    """The whole text."""
    parts = [
        "# What is signed attention good for, at equal budgets?",
        "Rendered by `python -m recipes.verdict report` from the results; [`PLAN.md`](PLAN.md) says what was asked, how it is measured and "
        "what counts as yes. Differences are those of a map and softmax with the same seeds; p is corrected for all comparisons of its "
        "question.",
        _verdict(plan, lines, paces),
        _plan_note(plan, lines),
        _amendment_note(plan, lines),
        _idle_note(plan, lines),
        "## What has been run",
        progress(plan, lines, markdown=True),
        "## Models",
        _models(plan, lines),
        *_questions(plan, lines, paces),
        "## Signs of the weights",
        _signs(plan, lines),
        _edge_note(plan, lines),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def in_short(plan: Plan, lines: Lines, map_name: str) -> str:
    """What question 1 came to for a map, of the tasks that are finished, in a line of Markdown; "" if none is."""
    tasks = [name for name, task in plan.tasks.items() if task.kind != SYNTHETIC]
    finished = [name for name in tasks if _is_finished(plan, lines, name)]
    found = [each for each in questions.quality(plan, lines) if each.map_name == map_name and each.task in finished]
    better, worse = [each for each in found if each.yes], [each for each in found if each.is_significant(plan.level, worse=True)]
    gains = "; ".join(f"{each.task}, {_gain(each, plan.tasks[each.task])}" for each in better)
    of = f"{len(finished)} real tasks" + (f" (and {len(tasks) - len(finished)} not finished)" if finished != tasks else "")
    said = f"is better than softmax in {len(better)} of {of}{f': {gains}' if gains else ''}; worse in {len(worse)}."
    return f"{MAPS[map_name].title} {said}" if finished else ""


def _is_finished(plan: Plan, lines: Lines, name: str) -> bool:
    """Whether a task has the models of all maps and seeds."""
    return all(set(by_seed) >= set(plan.seeds) for by_seed in compared(lines[name], plan).values())


def _gain(answer: Answer, task: Task) -> str:
    scale, unit = (100, "points of accuracy") if task.classifies else (1, "nats of test loss")
    mean, low, high = (f"{scale * value:+.2f}" for value in (answer.difference.mean, answer.difference.low, answer.difference.high))
    return f"{mean} {unit} ({low} to {high})"


def _verdict(plan: Plan, lines: Lines, paces: Paces) -> str:
    found = questions.good_for_something(plan, lines, paces)
    has_any = any(compared(lines[name], plan)[plan.baseline] for name in plan.tasks)
    if not has_any:
        return "**Nothing has been compared yet.**"
    whole = all(_is_finished(plan, lines, name) for name in plan.tasks)
    sentences = []
    for name, places in found.items():
        title = MAPS[name].title
        sentences.append(f"* **{title}**: " + (f"better than softmax at {'; '.join(places)}." if places else "no gain found."))
    head = "The answer of the plan:" if whole else PRELIMINARY
    return "\n".join([head, "", *sentences])


def _plan_note(plan: Plan, lines: Lines) -> str:
    """What the digests of the results say of the plan."""
    digests = [line["plan"] for found in lines.values() for line in found]
    if not digests:
        return ""
    other = sum(digest != plan.digest for digest in digests)
    if not other:
        return f"All {len(digests)} results were made with the plan as it is (SHA-256 {plan.digest[:12]})."
    return (
        f"**The plan was changed after the first result**: {other} of {len(digests)} results were made with another text of `PLAN.md` than "
        f"the present one (SHA-256 {plan.digest[:12]}; theirs: {', '.join(sorted({each[:12] for each in digests} - {plan.digest[:12]}))}). "
        "What was decided after results were known is no test of them."
    )


def _amendment_note(plan: Plan, lines: Lines) -> str:
    """What was changed after the first result, and the rates that the plan without the change would have."""
    if not plan.by_accuracy:
        return ""
    other, unknown = [], dict[str, None]()  # the second keeps an order
    for task in plan.by_accuracy:
        for name in plan.maps:
            planned, rate = planned_rate(lines[task], name, plan), chosen_rate(lines[task], name, plan)
            if planned is None or rate is None:
                unknown[task] = None
            elif planned != rate:
                other.append(f"{task}, {MAPS[name].title} ({planned:g} instead of {rate:g})")
    rates = f"By the plan's own rule other rates would have been taken for {_joined(other)}." if other else ""
    rates += f" Not known yet, as the grid is not complete, of {_joined(unknown)}." if unknown else ""
    rates = rates or "By the plan's own rule the rates would be the same."
    return (
        f"**The plan was amended after the first result**: [{AMENDMENTS}]({AMENDMENTS}) says what was known then and why. The learning "
        f"rates of {_joined(plan.by_accuracy)} are chosen by validation accuracy and not by loss, and question 7 takes softmax's "
        f"smallest validation loss there. {rates.strip()}"
    )


def _idle_note(plan: Plan, lines: Lines) -> str:
    """The finished tasks whose answers say nothing of maps, as no signed model lost anything without the keys of either sign."""
    idle = []
    for task in plan.tasks.values():
        if not _is_finished(plan, lines, task.name):
            continue
        found = [line for by_seed in compared(lines[task.name], plan).values() for line in by_seed.values()]
        measured = [effects for line in found if line["measured"] and (effects := line["measured"]["signs"].get("effects"))]
        if measured and all(_decides(effects) == NEITHER for effects in measured):
            idle.append(task.name)
    if not idle:
        return ""
    return (
        f"**No signed model uses its attention in {_joined(idle)}**: after the plan's steps masking the keys of either sign costs nothing "
        "in any seed, so that its answers say nothing about maps."
    )


def _models(plan: Plan, lines: Lines) -> str:
    header = ["task, map", "n", "learning rate", "parameters", "test", "validation loss", "negative mass", "two-signed heads", "s per step"]
    rows = []
    for task in plan.tasks.values():
        for name, by_seed in compared(lines[task.name], plan).items():
            found = list(by_seed.values())
            if found:
                rows.append([f"{task.name}, {MAPS[name].title}", str(len(found)), f"{found[0]['learning_rate']:g}", *_cells(task, found)])
    note = "Test is accuracy in % (Bayes in brackets, where it is known), or loss in nats; mean and standard deviation over seeds."
    return f"{table(header, rows, markdown=True)}\n\n{note}" if rows else "No model has been trained at a chosen learning rate yet."


def _cells(task: Task, found: list[Line]) -> list[str]:
    parts = []
    for part, first in found[0]["test"].items():
        values = [line["test"][part]["accuracy"] * 100 if task.classifies else line["test"][part]["loss"] for line in found]
        bayes = f" ({100 * first['bayes']:.1f})" if first["bayes"] is not None else ""
        parts.append(f"{f'{part}: ' if len(found[0]['test']) > 1 else ''}{_spread(values, 1 if task.classifies else 3)}{bayes}")
    attention = [line["measured"]["attention"] for line in found if line["measured"]]
    return [
        f"{found[0]['parameters']:,}",
        ", ".join(parts),
        _spread([line["validation"]["loss"] for line in found], 3),
        _spread([each["negative_mass"] for each in attention], 2),
        _spread([each["two_signed"] for each in attention], 2),
        f"{statistics.median(line['training']['step_seconds'] for line in found):.3f}",
    ]


def _spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation; a dash where a training diverged."""
    return spread([value if math.isfinite(value) else None for value in values], digits=digits)


def _questions(plan: Plan, lines: Lines, paces: Paces) -> list[str]:
    sinks, collapse, faithfulness = (
        questions.measured(plan, lines, measures) for measures in (questions.SINKS, questions.COLLAPSE, questions.FAITHFULNESS)
    )
    return [
        "## 1. Quality",
        _answers(plan, questions.quality(plan, lines), "better accuracy, or less loss, on real data"),
        "## 2. Subtraction",
        _answers(plan, questions.subtraction(plan, lines), "better accuracy by at least 2 points where a key must be subtracted"),
        "## 3. Both signs",
        _both_signs(questions.both_signs(plan, lines)),
        "## 4. Sinks and outliers",
        _answers(plan, sinks, "less weight on the first token, less kurtosis, less loss by rounding"),
        "## 5. Rank collapse",
        _answers(plan, collapse, "a larger residual after the last layer, of attention alone"),
        "## 6. Faithfulness",
        _answers(plan, faithfulness, "contributions that agree better with hiding words"),
        "## 7. Speed",
        _speed(questions.speed(plan, lines, paces), paces),
    ]


def _answers(plan: Plan, answers: list[Answer], asked: str) -> str:
    if not answers:
        return f"Asked: {asked}. No pair of models has been trained yet."
    rows = [
        [f"{each.task}, {each.part}, {MAPS[each.map_name].title}", str(each.difference.n), *_numbers(each), _said(each, plan)]
        for each in answers
    ]
    yes = sum(each.yes for each in answers)
    head = f"Asked: {asked}. Yes in {yes} of {len(answers)} comparisons."
    return f"{head}\n\n{table(['task, measure, map', 'n', 'difference', '95 % interval', 'p', 'answer'], rows, markdown=True)}"


def _numbers(answer: Answer) -> list[str]:
    found = answer.difference
    p = f"< {SMALLEST}" if answer.p < SMALLEST else f"{answer.p:.3f}"
    return [f"{found.mean:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}", p]


def _said(answer: Answer, plan: Plan) -> str:
    if answer.yes:
        return "yes"
    if answer.is_significant(plan.level, worse=True):
        return "worse"
    return "no" if answer.difference.n == len(plan.seeds) else "not yet"


def _both_signs(counts: list[Count]) -> str:
    if not counts:
        return "No signed map has been trained yet."
    header = ["task, map", "seeds", *(name.replace("_", " ") for name in INTERVENTIONS), "answer"]
    rows = [
        [
            f"{each.task}, {MAPS[each.map_name].title}",
            f"{each.seeds_yes} of {each.seeds}",
            *(f"{each.details[name]:+.3f}" for name in INTERVENTIONS),
            _counted(each),
        ]
        for each in counts
    ]
    head = (
        "What each change of the weights costs: accuracy, or nats, mean over seeds. Seeds are those in which masking negative keys, "
        "masking positive keys and changing which keys are negative each cost something."
    )
    return f"{head}\n\n{table(header, rows, markdown=True)}"


def _speed(counts: list[Count], paces: Paces) -> str:
    if not counts:
        return "No pair of models has been trained yet."
    rows = [
        [
            f"{each.task}, {MAPS[each.map_name].title}",
            f"{each.details['seconds_per_step']:.2f}",
            f"{100 * each.details['reached']:.0f} %",
            f"{each.seeds_yes} of {each.seeds}",
            _counted(each),
        ]
        for each in counts
    ]
    header = ["task, map", "time per step, softmax 1", "reach its loss", "in less time", "answer"]
    head = (
        "Processor time to softmax's final validation loss, or its smallest where the plan was amended; steps of all maps are timed side "
        "by side (`python -m recipes.verdict pace`)"
    )
    apart = sorted({each.task for each in counts} - paces.keys())
    note = f", but for {_joined(apart)}, where each run has timed its own" if apart else ""
    return f"{head}{note}.\n\n{table(header, rows, markdown=True)}"


def _counted(count: Count) -> str:
    return "yes" if count.yes else "no" if count.seeds == count.planned else "not yet"


def _signs(plan: Plan, lines: Lines) -> str:
    """Which sign decides, seed by seed: the costs of masking either."""
    rows = []
    for task in plan.tasks.values():
        for name, by_seed in compared(lines[task.name], plan).items():
            for seed, line in sorted(by_seed.items()):
                effects = line["measured"]["signs"].get("effects") if line["measured"] else None
                if effects:
                    shown = [_interval(effects[each]) for each in ("negatives_masked", "positives_masked")]
                    rows.append([f"{task.name}, {MAPS[name].title}", str(seed), *shown, _decides(effects)])
    header = ["task, map", "seed", "negative keys masked", "positive keys masked", "information in"]
    head = "Cost of masking the keys of one sign, with the interval over rows, seed by seed."
    return f"{head}\n\n{table(header, rows, markdown=True)}" if rows else "No signed map has been trained yet."


def _interval(effect: dict[str, float]) -> str:
    return f"{effect['cost']:+.3f} [{effect['low']:+.3f}, {effect['high']:+.3f}]"


def _decides(effects: dict[str, dict[str, float]]) -> str:
    costly = {sign: effects[f"{sign}s_masked"]["low"] > 0 for sign in ("negative", "positive")}
    return {(True, True): "both", (True, False): "negative", (False, True): "positive", (False, False): NEITHER}[tuple(costly.values())]  # type: ignore[index]


def _edge_note(plan: Plan, lines: Lines) -> str:
    """Where the chosen learning rate is an end of the grid."""
    ends = (min(plan.learning_rates), max(plan.learning_rates))
    at_end = [
        f"{task}, {MAPS[name].title} ({rate:g})"
        for task, found in lines.items()
        for name in plan.maps
        if (rate := chosen_rate(found, name, plan)) in ends and rate is not None
    ]
    return f"The best learning rate is at an end of the grid for {_joined(at_end)}." if at_end else ""


def _joined(names: Iterable[str], shown: Callable[[str], str] = str) -> str:
    return "; ".join(map(shown, names))
