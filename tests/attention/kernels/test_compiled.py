"""Every shipped tile, compiled ahead of time for real GPUs by the installed Triton, costs what the table of that version says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="needs triton")
import ahead
from thorough import THOROUGH

from hf_tanhmax.attention.kernels.schedule import TABLE as TABLE_OF_TILES
from hf_tanhmax.attention.kernels.schedule import tiles

VERSION = ".".join(triton.__version__.split(".")[:2])
TABLE = ahead.TABLES / f"triton-{VERSION}.json"
# Bytes that a GPU gives a block: 99 KiB is what the small ones of compute capability 8.6, 8.9 and 12.0 give, which run the code for 8.0.
SHARED_LIMIT = {"sm_80": 99 * 1024, "sm_90": 99 * 1024, "sm_100": 227 * 1024}

if not (Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm").exists():
    pytest.skip("this Triton comes without NVIDIA's tools", allow_module_level=True)


def table():
    if not TABLE.exists():
        pytest.skip(f"there is no table for triton {VERSION}; python tests/helpers/ahead.py --write makes one")
    return json.loads(TABLE.read_text())


def compiled(kernels):
    """Costs by name, compiled in a process of its own, as the interpreter is on in this one."""
    environment = {name: item for name, item in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [
        sys.executable,
        ahead.__file__,
        "--jobs",
        "1",
        *([] if THOROUGH else ["--sample"]),
        "--only",
        *(f"{name} D" for name in kernels),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return {entry.pop("name"): entry for entry in map(json.loads, run.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernels",
    [
        ("forward", "query", "mask", "norm"),
        ("balanced", "key_value", "bias", "delta"),
        ("decode_16", "decode_32", "decode_64", "combine", "combine_halves", "range"),
    ],
    ids=" ".join,
)
def test_costs_are_those_of_the_table(kernels):
    """All of them only where HF_TANHMAX_THOROUGH is 1: they take minutes, and a few stand for the others."""
    builds = [build for build in ahead.builds() if build.kernel in kernels]
    assert {build.name for build in builds} == {name for name in table() if name.split()[0] in kernels}, (
        "the table is not of these tiles; python tests/helpers/ahead.py --write makes it anew"
    )
    expected, found = table(), compiled(kernels)
    assert set(found) == {build.name for build in builds if THOROUGH or ahead.sampled(build)}
    for name, costs in found.items():
        for key in ("registers", "stack", "spills", "shared"):
            assert costs[key] <= expected[name][key], f"{name}: {costs[key]} {key}, the table has {expected[name][key]}"
        for key in ("ex2", "matrix", "wide"):
            assert costs[key] == expected[name][key], f"{name}: {costs[key]} {key} instructions, the table has {expected[name][key]}"


@pytest.mark.parametrize("name", list(json.loads(TABLE.read_text())) if TABLE.exists() else [])
def test_the_table_holds_what_a_fast_kernel_needs(name):
    costs = table()[name]
    kernel, head, dtype, _, row, *_, architecture = name.split()
    everywhere = kernel in ahead.FIXED or int(row) < len(TABLE_OF_TILES[kernel, int(head[1:]), 2 if dtype == "bf16" else 4])
    limit = SHARED_LIMIT[architecture if everywhere else "sm_100"]  # the Hopper's own rows may have it all
    assert costs["shared"] <= limit
    if kernel in ahead.FIXED:
        assert costs["spills"] == costs["matrix"] == 0
        assert (costs["ex2"] > 0) == kernel.startswith("combine")
        return
    assert costs["wide"] > 0, "no 16-byte loads"
    features = name.split()[5]
    on_tensor_cores = dtype == "bf16" or features in ("split", "tf32")
    assert (costs["matrix"] > 0) == on_tensor_cores, "half precision and rounded float32 run on tensor cores, exact float32 does not"
    # For everything at once crowded rows are the defaults, and for an additive mask beside the two tiles of sums of a balanced shift.
    spilling = ("everything", "additive") if kernel == "balanced" else ("everything",)
    if architecture == "sm_90" and " row 0 " in name and features not in spilling and "fp32" not in name:
        assert costs["spills"] <= 20, f"{kernel} spills"


def test_softmax_takes_half_the_exponentials():
    entries = table()
    signed, positive = (entries[f"key_value D64 bf16 row 0 {features} sm_90"]["ex2"] for features in ("causal", "softmax"))
    assert signed == 2 * positive
    forward = [entries[f"forward D64 bf16 row 0 {features} sm_90"]["ex2"] for features in ("causal", "softmax")]
    assert forward[1] < 0.55 * forward[0]  # beside them, one a row for the shift


def rows_of(name):
    """The rows of an entry's kernel and head size on a Hopper."""
    kernel, head, dtype = name.split()[:3]
    return tiles(kernel, int(head[1:]), 2 if dtype == "bf16" else 4, (9, 0))


def hopper(kernel, head):
    """The rows of a Hopper with their costs."""
    rows = tiles(kernel, head, 2, (9, 0))
    return [(tile, table()[f"{kernel} D{head} bf16 row {row} causal sm_90"]) for row, tile in enumerate(rows)]


@pytest.mark.parametrize("head", [64, 128])
def test_descriptors_free_registers(head):
    rows = hopper("forward", head)
    pointers = {(tile.rows, tile.columns, tile.static, tile.polynomial): cost for tile, cost in rows if not tile.described}
    for tile, cost in rows:
        twin = pointers.get((tile.rows, tile.columns, tile.static, tile.polynomial))
        if tile.described and twin:
            assert cost["registers"] < twin["registers"]


@pytest.mark.parametrize("head", [64, 128])
def test_the_rows_of_a_hopper_hardly_spill_in_the_forward_pass(head):
    for tile, cost in hopper("forward", head):
        assert cost["spills"] <= 1, tile


@pytest.mark.parametrize("head", [64, 128])
def test_decoding_leaves_room_for_three_programs_a_multiprocessor(head):
    """Of 65536 registers and 227 KiB: the schedule's four waves are then taken in at most two goes. Softmax gets no more of them."""
    for features in ("full", "softmax", "paged"):
        costs = table()[f"decode_16 D{head} bf16 row 0 {features} sm_90"]
        assert 3 * 128 * costs["registers"] <= 65536
        assert 3 * costs["shared"] <= SHARED_LIMIT["sm_100"]


@pytest.mark.parametrize("head", [64, 128])
def test_signed_decoding_costs_one_exponential_a_score_more_and_no_load(head):
    signed, positive = (table()[f"decode_16 D{head} bf16 row 0 {features} sm_90"] for features in ("full", "softmax"))
    assert signed["ex2"] - positive["ex2"] == 16 * 64 // 128
    assert [signed[key] for key in ("matrix", "wide", "shared")] == [positive[key] for key in ("matrix", "wide", "shared")]


def test_a_boolean_mask_costs_no_registers_to_speak_of():
    """Read byte by byte it spilled up to 1,141 stores with Triton 3.9, and doubled the exponentials of a tile."""
    for name, costs in table().items():
        row, features, architecture = name.split()[4:]
        if (features, architecture) == ("masked", "sm_90") and not rows_of(name)[int(row)].reduced:
            plain = table()[name.replace("masked", "causal")]
            assert costs["spills"] <= 20, name
            assert costs["ex2"] <= 1.1 * plain["ex2"], name


def test_crowded_rows_hold_what_others_spill():
    for kernel, head in (("forward", 128), ("key_value", 64), ("query", 128)):
        number = next(number for number, tile in enumerate(tiles(kernel, head, 2)) if tile.crowded)
        for features in ("additive", "everything"):
            assert table()[f"{kernel} D{head} bf16 row {number} {features} sm_90"]["spills"] <= 20
