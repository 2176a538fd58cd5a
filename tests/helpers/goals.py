"""The goals of the kernels on an H200, answered by counts: predictions from compiled instructions beside published times of stock kernels.

A kernel takes between the cycles of its busiest unit (all units overlap) and those of the serial model of `predicted`. A stock kernel takes
the cycles that its published TFLOP/s at 8192 keys, full, are of the matrix unit's 989. Nothing here was timed.
"""

import json

from predicted import MATRIX, RESULTS

from hf_tanhmax.results import table

PEAK = 989  # TFLOP/s of the matrix unit, 4096 operations per cycle and multiprocessor
HEADS = (64, 128)
OPERATIONS = {"forward": 4, "backward": 10}  # per score and element of a head, as TFLOP/s are counted
# Published for an H100 in half precision, forward and backward: FlashAttention 2, and cuDNN by the figures of FlashAttention 3.
PUBLISHED = {
    "FlashAttention 2": {"forward": {64: 322, 128: 370}, "backward": {64: 287, 128: 318}},
    "cuDNN": {"forward": {64: 412, 128: 600}, "backward": {64: 432, 128: 518}},
}
MODELS = ("overlapped", "serial")


def goals():
    """Of each goal, by head size, its text: must / goal / stretch."""
    return {
        "forward time / softmax twin": ("1.6 / 1.45 / 1.25", "1.4 / 1.3 / 1.15"),
        "forward TFLOP/s": ("240 / 290 / 330", "310 / 390 / 480"),
        "backward time / softmax twin": ("1.35 / 1.25 / 1.15", "1.25 / 1.15 / 1.08"),
        "backward TFLOP/s": ("220 / 260 / 330", "270 / 320 / 430"),
        "forward / two calls on cuDNN": ("0.95 / 0.80 / 0.65", "1.0 / 0.80 / 0.62"),
        "forward / two calls on FlashAttention 2": ("0.70 / 0.60 / 0.50", "0.62 / 0.50 / 0.40"),
        "forward+backward / two calls on cuDNN": ("1.0 / 0.85 / 0.70", "1.0 / 0.85 / 0.65"),
        "balanced forward / two calls on cuDNN": ("1.0", "1.0"),
        "balanced forward+backward / two calls on cuDNN": ("1.0", "1.0"),
        "balanced forward+backward / one call on cuDNN": ("1.5", "1.5"),
    }


def answers(entries, head, *, best):
    """The ratios and TFLOP/s of a head size, each a pair: all units overlapped, and serial; with default tiles or the best ones."""

    def clocks(kernel, weights):
        rows = [each for each in entries if (each["kernel"], each["head_dim"], each["weights"]) == (kernel, head, weights)]
        rows = [each for each in rows if not each["tile"]["reduced"]]
        if weights == "softmax" or best:
            return [min(each["clocks"][model] for each in rows) for model in MODELS]
        return [rows[0]["clocks"][model] for model in MODELS]

    def both(weights):
        return [sum(pair) for pair in zip(clocks("query", weights), clocks("key_value", weights), strict=True)]

    def stock(name, *passes):
        return sum(OPERATIONS[each] * head / MATRIX * PEAK / PUBLISHED[name][each][head] for each in passes)

    def rate(each, cycles):
        return [PEAK * OPERATIONS[each] * head / MATRIX / one for one in cycles]

    def divided(cycles, by):
        return [one / other for one, other in zip(cycles, by if isinstance(by, list) else [by] * 2, strict=True)]

    forward, backward, halves = clocks("forward", "TanhMax"), both("TanhMax"), clocks("balanced", "balanced")
    whole = [sum(pair) for pair in zip(forward, backward, strict=True)]
    balanced = [sum(pair) for pair in zip(halves, both("balanced"), strict=True)]
    cudnn = stock("cuDNN", "forward", "backward")
    return [
        divided(forward, clocks("forward", "softmax")),
        rate("forward", forward),
        divided(backward, both("softmax")),
        rate("backward", backward),
        divided(forward, 2 * stock("cuDNN", "forward")),
        divided(forward, 2 * stock("FlashAttention 2", "forward")),
        divided(whole, 2 * cudnn),
        divided(halves, 2 * stock("cuDNN", "forward")),
        divided(balanced, 2 * cudnn),
        divided(balanced, cudnn),
    ]


def rendered():
    """The table as Markdown."""
    result = json.loads((RESULTS / "predicted-clocks-triton-3.9.json").read_text())
    columns = [name for head in HEADS for name in (f"D{head}: must / goal / stretch", "default tiles", "best tiles")]
    cells = {name: [name] for name in goals()}
    for number, head in enumerate(HEADS):
        found = [answers(result["entries"], head, best=best) for best in (False, True)]
        for name, *pairs in zip(goals(), *found, strict=True):
            digits = 0 if "TFLOP" in name else 2
            cells[name] += [goals()[name][number], *(" to ".join(f"{one:.{digits}f}" for one in pair) for pair in pairs)]
    lines = [f"**Predicted, not timed.** Triton {result['triton']}, bfloat16, no mask; from all units overlapped to serial.", ""]
    return "\n".join([*lines, table(["goal", *columns], list(cells.values()), markdown=True, align="none")])
