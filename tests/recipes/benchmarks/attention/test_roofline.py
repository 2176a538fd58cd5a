"""The limits are those of the specification's table, and the picture is drawn."""

from dataclasses import asdict

import pytest
from made_benchmarks import rows_at, setting

from recipes.benchmarks.attention import roofline
from recipes.benchmarks.attention.roofline import DATASHEET, limits

# head size, exponentials -> fully overlapped and not overlapped at all, TFLOP/s
FORWARD = {(64, 1): (989, 494), (64, 2): (494, 330), (128, 1): (989, 659), (128, 2): (989, 494), (256, 1): (989, 791), (256, 2): (989, 659)}


@pytest.mark.parametrize(("head_dim", "exponentials"), list(FORWARD))
def test_forward_limits(head_dim, exponentials):
    found = limits(head_dim, "forward", exponentials=exponentials, multiprocessors=DATASHEET[0], hertz=DATASHEET[1])
    assert (found.overlapped, found.serial) == pytest.approx(FORWARD[head_dim, exponentials], abs=1)
    assert found.overlapped == min(found.matrix, found.special)


def test_backward_limits():
    """Ten floating-point operations per score and unit of head size: .15625 clocks of matrix products, .125 of exponentials at 64."""
    found = limits(64, "backward", exponentials=2, multiprocessors=132, hertz=1.83e9)
    assert (found.matrix, found.special, found.serial) == pytest.approx((989.4, 989.4 * 1.25, 989.4 * 0.15625 / 0.28125), rel=1e-3)


def test_the_device_says_its_own_clock():
    assert roofline.device_of({"multiprocessors": 78, "clocks.max.sm": "1980 MHz"}) == (78, 1.98e9)
    assert roofline.device_of({"nvidia-smi": "not found"}) == DATASHEET


def lines_of(monkeypatch, result, path):
    """What a plot shows: the labels of its lines with a marker, and its title."""
    figures = []

    class Kept(roofline.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    monkeypatch.setattr(roofline, "Figure", Kept)
    roofline.plot(result, path)
    lines = [line for axes in figures[0].axes for line in axes.lines if line.get_marker() == "o"]
    return {line.get_label(): list(line.get_xdata()) for line in lines}, figures[0].get_suptitle()


@pytest.mark.parametrize("dry_run", [False, True])
def test_plot(dry_run, tmp_path, monkeypatch):
    settings = [setting(length, head_dim, kv_heads=8) for length in (8192, 512) for head_dim in (64, 128)]
    settings += [setting(4096, causal=True, kv_heads=8), setting(2048, kv_heads=4)]  # these two are not shown
    rows = [row for one in settings for row in rows_at(one)]
    result = {"dry_run": dry_run, "environment": {"gpu": "A GPU"}, "rows": [asdict(row) for row in rows]}
    found, title = lines_of(monkeypatch, result, tmp_path / "result.json")
    assert found == ({} if dry_run else {"softmax SDPA": [512, 8192], "fused": [512, 8192], "eager": []})
    assert title.startswith("dry run: not a measurement" if dry_run else "A GPU, bfloat16, full attention, query heads per key head: 4\n")
    assert "limits: 132 multiprocessors at 1830 MHz, not measured" in title
    assert {path.name for path in tmp_path.iterdir()} == {"result.png", "result.svg"}
