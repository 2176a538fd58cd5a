"""Rows of the GPU benchmark, made up."""

from recipes.benchmarks.attention.contenders import BASELINE
from recipes.benchmarks.attention.gpu import PASSES, Row
from recipes.benchmarks.attention.gpu_contenders import CALLS_CUDNN, CALLS_FLASH, EAGER, FUSED, TWIN
from recipes.benchmarks.attention.gpu_plan import Setting


def same(value):
    return {"p20": value - 0.01, "p50": value, "p80": value + 0.02}


def rows_at(setting, *, ratio=1.0, tflops=300.0, memory=100.0):
    """Rows of the fused kernel and the baseline, and eager TanhMax without a number."""
    ratios = {BASELINE: same(1.5), TWIN: same(ratio), CALLS_CUDNN: same(0.9), CALLS_FLASH: same(0.65)}
    for what in PASSES:
        peak = None if what == "backward" else memory
        yield Row(BASELINE, setting, what, same(2.0), 500.0, {BASELINE: same(1.0)}, None if peak is None else 100.0, None)
        yield Row(FUSED, setting, what, same(3.0), tflops, ratios, peak, None)
        yield Row(EAGER, setting, what, {}, None, {}, None, "holds all scores: about 999 GiB, and 130 GiB are free")


def setting(length, head_dim=64, causal=False, kv_heads=32):
    return Setting("bfloat16", max(1, 16384 // length), 32, kv_heads, length, head_dim, causal)
