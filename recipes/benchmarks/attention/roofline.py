r"""The highest rate of attention that a GPU's units allow, and a plot of the measured rates below it.

Per clock cycle a Hopper multiprocessor does 4096 dense half-precision floating-point operations and 16 special functions. A score takes
:math:`4D` operations forward and :math:`10D` backward, and one exponential if it is softmax's, two if TanhMax's. If these take :math:`c_m`
and :math:`c_s` cycles per score, the rate is at most that of :math:`\max(c_m, c_s)` cycles where the two units overlap fully, and that of
:math:`c_m + c_s` cycles where they do not overlap. These are arithmetic, not measurements; the best published softmax kernels run within a
few per cent of the second.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .gpu import FLOPS
from .gpu_report import DRY_RUN, rows_of

MATRIX_FLOPS, SPECIAL_FUNCTIONS = 4096, 16
PASSES = ("forward", "backward")
# The datasheet's: 132 multiprocessors at 1830 MHz are its 989 TFLOP/s.
DATASHEET = (132, 1.83e9)
HALF = ("bfloat16", "float16")


@dataclass(frozen=True)
class Limits:
    """Rates in TFLOP/s that attention cannot pass: by its matrix products, by its exponentials, by both at once and one after the other."""

    matrix: float
    special: float
    overlapped: float
    serial: float


def limits(head_dim: int, what: str, *, exponentials: int, multiprocessors: int, hertz: float) -> Limits:
    """Limits of a pass; TanhMax has two exponentials per score, softmax one."""
    operations = FLOPS[what] * head_dim
    matrix, special = operations / MATRIX_FLOPS, exponentials / SPECIAL_FUNCTIONS  # clock cycles per score
    unit = multiprocessors * hertz * 1e-12 * operations
    return Limits(unit / matrix, unit / special, unit / max(matrix, special), unit / (matrix + special))


def device_of(environment: dict[str, Any]) -> tuple[int, float]:
    """Multiprocessors and the highest clock in Hz, as the environment has them; the datasheet's for what it lacks."""
    multiprocessors, hertz = DATASHEET
    megahertz = str(environment.get("clocks.max.sm", "")).partition(" ")[0]
    return environment.get("multiprocessors", multiprocessors), float(megahertz) * 1e6 if megahertz.isdigit() else hertz


def plot(result: dict[str, Any], path: Path) -> None:
    """Rates over the length, one panel for each pass and head size, as PNG and SVG; of a dry run, the limits alone.

    Full attention in the first half precision that was timed, with the fewest query heads per key head.
    """
    every = rows_of(result)
    group = min(row.setting.group for row in every)
    rows = [row for row in every if not row.setting.causal and row.setting.group == group]
    dtype = next((name for name in HALF if any(row.setting.dtype == name for row in rows)), None)
    head_dims = sorted({row.setting.head_dim for row in rows})
    figure = Figure(figsize=(max(8.0, 5.5 * len(head_dims)), 8.5), layout="constrained")
    panels = figure.subplots(len(PASSES), len(head_dims), squeeze=False)
    device = device_of(result["environment"])
    for line, what in zip(panels, PASSES, strict=True):
        for panel, head_dim in zip(line, head_dims, strict=True):
            panel.set(title=f"{what}, D {head_dim}", xlabel="length", ylabel="TFLOP/s", xscale="log")
            _draw_limits(panel, head_dim, what, device)
            chosen = [row for row in rows if (row.what, row.setting.head_dim, row.setting.dtype) == (what, head_dim, dtype)]
            _draw_rates(panel, [] if result["dry_run"] else chosen)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    name = (
        DRY_RUN if result["dry_run"] else f"{result['environment'].get('gpu')}, {dtype}, full attention, query heads per key head: {group}"
    )
    figure.suptitle(f"{name}\nlimits: {device[0]} multiprocessors at {device[1] / 1e6:.0f} MHz, not measured")
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix))


def _draw_limits(panel: Any, head_dim: int, what: str, device: tuple[int, float]) -> None:
    multiprocessors, hertz = device
    for attention, exponentials, colour in (("softmax", 1, "0.6"), ("TanhMax", 2, "0.2")):
        found = limits(head_dim, what, exponentials=exponentials, multiprocessors=multiprocessors, hertz=hertz)
        panel.axhline(found.special, color=colour, linestyle=":", label=f"limit: special functions, {attention}")
        panel.axhline(found.serial, color=colour, linestyle="--", label=f"limit: no overlap, {attention}")
    panel.axhline(found.matrix, color="black", label="limit: matrix products")
    panel.set_ylim(0, 1.1 * found.matrix)


def _draw_rates(panel: Any, rows: list[Any]) -> None:
    for name in dict.fromkeys(row.contender for row in rows):
        points = sorted((row.setting.length, row.tflops) for row in rows if row.contender == name and row.tflops is not None)
        panel.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    lengths = sorted({row.setting.length for row in rows})
    panel.set_xticks(lengths, [str(length) for length in lengths])
    panel.minorticks_off()
