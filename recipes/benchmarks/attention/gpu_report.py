"""The result of the GPU benchmark as Markdown: ratios, absolute figures, memory, what was not timed and why, and the targets."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hf_tanhmax.results import table

from .contenders import BASELINE
from .gpu import PASSES, REFERENCES, Row
from .gpu_contenders import CALLS_CUDNN, CALLS_FLASH, EAGER, FUSED, TWIN
from .gpu_plan import Setting

DRY_RUN = "dry run: not a measurement"


@dataclass(frozen=True)
class Target:
    """What the fused kernels must reach on an H200, in bfloat16.

    Attributes:
        label: in words.
        what: the pass.
        over: the contender that times are divided by; None is TFLOP/s, which must be at least the bound where ratios must be at most.
        bounds: head_dim -> bound.
        lengths: the first and the last that count.
        full_only: whether causal settings are left out.
        memory: whether memory is divided and not time.
    """

    label: str
    what: str
    over: str | None
    bounds: dict[int, float]
    lengths: tuple[int, float] = (2048, float("inf"))
    full_only: bool = False
    memory: bool = False


TARGETS = (
    Target("forward time / twin", "forward", TWIN, {64: 1.6, 128: 1.4}),
    Target("forward TFLOP/s, full, 8192", "forward", None, {64: 240, 128: 310}, (8192, 8192), full_only=True),
    Target("backward time / twin", "backward", TWIN, {64: 1.35, 128: 1.25}),
    Target("backward TFLOP/s, full, 8192", "backward", None, {64: 220, 128: 270}, (8192, 8192), full_only=True),
    Target("forward / two calls on cuDNN", "forward", CALLS_CUDNN, {64: 0.95, 128: 1.0}),
    Target("forward / two calls on default SDPA (flash)", "forward", CALLS_FLASH, {64: 0.70, 128: 0.62}),
    Target("forward+backward / two calls on cuDNN", "forward+backward", CALLS_CUDNN, {64: 1.0, 128: 1.0}),
    Target("forward+backward / eager TanhMax, 2048", "forward+backward", EAGER, {64: 0.25, 128: 0.25}, (2048, 2048)),
    Target("peak memory / softmax SDPA, forward", "forward", BASELINE, {64: 1.05, 128: 1.05}, memory=True),
    Target("peak memory / softmax SDPA, forward+backward", "forward+backward", BASELINE, {64: 1.05, 128: 1.05}, memory=True),
)


def rows_of(result: dict[str, Any]) -> list[Row]:
    """The rows of a result as they were before they became JSON."""
    return [Row(**{**row, "setting": Setting(**row["setting"])}) for row in result["rows"]]


def report(result: dict[str, Any]) -> str:
    """Markdown; of a dry run, the list of what ran and not one figure."""
    rows = rows_of(result)
    if result["dry_run"]:
        return "\n".join([f"**{DRY_RUN}**", "", *_rehearsed(rows), "", *not_timed(rows)])
    found = {(row.setting, row.what, row.contender): row for row in rows}
    names = list(dict.fromkeys(row.contender for row in rows))
    parts = [_machine(result)]
    for what in PASSES:
        parts += [f"### {what}: time over softmax SDPA's, median (p20 to p80)", _table(found, what, names, _over_baseline)]
        parts += [f"### {what}: milliseconds at the median, TFLOP/s", _table(found, what, names, _absolute)]
        parts += [f"### {what}: fused kernel's time over that of", _table(found, what, list(REFERENCES), _fused_over)]
        if what != "backward":
            parts += [f"### {what}: memory that it adds at its peak, results included, MiB", _table(found, what, names, _memory)]
    parts += ["### Not timed", "\n".join(not_timed(rows)), "### Targets for an H200", targets(rows)]
    return "\n\n".join(part for part in parts if part)


def _machine(result: dict[str, Any]) -> str:
    machine, git = result["environment"], result["git"] or {}
    facts = [machine["gpu"]] if "gpu" in machine else []
    facts += [f"{key} {machine[key]}" for key in ("power.limit", "clocks.max.sm", "driver_version") if key in machine]
    facts += [f"{key} {machine[key]}" for key in ("cuda", "torch", "triton", "transformers", "hf-tanhmax") if key in machine]
    facts += [f"commit {git['commit'][:12]}{' with changes' if git['changed'] else ''}"] if git else []
    rounds = max(plan["rounds"] for plan in result["plans"])
    cut = "" if result["complete"] else " The run was cut short."
    return f"{', '.join(facts)}; at most {rounds} rounds. -: not timed.{cut}"


def _rehearsed(rows: list[Row]) -> list[str]:
    ran = dict.fromkeys((row.contender, row.what) for row in rows if row.reason is None)
    return [f"* ran: {name}, {what}" for name, what in ran]


def _table(found: dict[tuple[Setting, str, str], Row], what: str, names: list[str], cell: Any) -> str:
    settings = dict.fromkeys(setting for setting, one, _ in found if one == what)
    lines = [[_label(setting), *(cell(found, setting, what, name) for name in names)] for setting in settings]
    return table(["dtype, (B, H, S, D)", *names], lines, markdown=True)


def _label(setting: Setting) -> str:
    grouped = "" if setting.group == 1 else f", {setting.group} query heads per key head"
    shape = f"({setting.batch}, {setting.heads}, {setting.length}, {setting.head_dim})"
    return f"{setting.dtype}, {shape}{grouped}{', causal' if setting.causal else ''}"


def _spread(ratio: dict[str, float] | None) -> str:
    return "-" if ratio is None else f"{ratio['p50']:.2f} ({ratio['p20']:.2f} to {ratio['p80']:.2f})"


def _over_baseline(found: dict[tuple[Setting, str, str], Row], setting: Setting, what: str, name: str) -> str:
    row = found.get((setting, what, name))
    return "-" if row is None else _spread(row.ratios.get(BASELINE))


def _fused_over(found: dict[tuple[Setting, str, str], Row], setting: Setting, what: str, name: str) -> str:
    row = found.get((setting, what, FUSED))
    return "-" if row is None else _spread(row.ratios.get(name))


def _absolute(found: dict[tuple[Setting, str, str], Row], setting: Setting, what: str, name: str) -> str:
    row = found.get((setting, what, name))
    return "-" if row is None or not row.ms else f"{row.ms['p50']:.3f}, {row.tflops:.0f}"


def _memory(found: dict[tuple[Setting, str, str], Row], setting: Setting, what: str, name: str) -> str:
    row = found.get((setting, what, name))
    return "-" if row is None or row.memory is None else f"{row.memory:.0f}"


def not_timed(rows: Iterable[Row]) -> list[str]:
    """One line for each contender and reason, with the settings that it holds for."""
    everywhere = set()
    reasons: dict[tuple[str, str], dict[Setting, None]] = {}
    for row in rows:
        everywhere.add(row.setting)
        if row.reason is not None:
            reasons.setdefault((row.contender, row.reason), {})[row.setting] = None
    places = {key: "; ".join(map(_label, found)) if found.keys() < everywhere else "everywhere" for key, found in reasons.items()}
    return [f"* not timed: {name}: {reason} [{places[name, reason]}]" for name, reason in reasons]


def targets(rows: list[Row]) -> str:
    """A table: worst median over the settings that a target speaks of, target, met or missed, and where the worst is."""
    found = {(row.setting, row.what, row.contender): row for row in rows}
    lines = [_verdict(target, head_dim, found) for target in TARGETS for head_dim in target.bounds]
    return table(["must", "D", "worst median", "target", "verdict", "worst at"], lines, markdown=True)


def _verdict(target: Target, head_dim: int, found: dict[tuple[Setting, str, str], Row]) -> list[str]:
    asked = [setting for setting, what, name in found if (what, name) == (target.what, FUSED) and _speaks_of(target, head_dim, setting)]
    values = {setting: value for setting in asked if (value := _value(target, setting, found)) is not None}
    sign = "at least" if target.over is None else "at most"
    line = [target.label, str(head_dim)]
    bound = f"{sign} {target.bounds[head_dim]:g}"
    if not values:
        return [*line, "-", bound, "not measured", "-"]
    worst = (min if target.over is None else max)(values, key=values.__getitem__)
    met = values[worst] >= target.bounds[head_dim] if target.over is None else values[worst] <= target.bounds[head_dim]
    missing = f"; {len(asked) - len(values)} of {len(asked)} settings not measured" if len(values) < len(asked) else ""
    digits = 0 if target.over is None else 2
    return [*line, f"{values[worst]:.{digits}f}", bound, "met" if met else "missed", _label(worst) + missing]


def _speaks_of(target: Target, head_dim: int, setting: Setting) -> bool:
    first, last = target.lengths
    fits = first <= setting.length <= last and not (target.full_only and setting.causal)
    return fits and setting.head_dim == head_dim and setting.dtype == "bfloat16"


def _value(target: Target, setting: Setting, found: dict[tuple[Setting, str, str], Row]) -> float | None:
    row = found[setting, target.what, FUSED]
    if target.over is None:
        return row.tflops
    if not target.memory:
        return row.ratios[target.over]["p50"] if target.over in row.ratios else None
    other = found.get((setting, target.what, target.over))
    return None if row.memory is None or other is None or not other.memory else row.memory / other.memory
