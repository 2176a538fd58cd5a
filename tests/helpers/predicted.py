"""Predicted clock cycles per attention score, from the instructions of a kernel's inner loop. Predictions, not measurements: no GPU runs.

`python tests/helpers/predicted.py` compiles the forward and backward kernels and their softmax twins for sm_90, as `ahead` does, and writes
`predicted-clocks-<version of Triton>.json` into `recipes/results`, and prints the table. Run it without TRITON_INTERPRET.

Per clock cycle a Hopper multiprocessor issues instructions for 128 threads, computes 16 special functions and 4096 dense half-precision
operations, and moves 128 bytes from or to shared memory. A score thus takes at least the largest of (instructions / 128), (special
functions / 16), (matrix operations / 4096) and (bytes / 128) cycles, which is what the kernel takes if the units overlap fully. If the
matrix unit overlaps with nothing, its cycles, or those of its operands in shared memory, are added to the larger of the other two.
"""

import argparse
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from ahead import DTYPES, Build, compiled, disassembled, rows_of

from hf_tanhmax.results import table

RESULTS = Path(__file__).parents[2] / "recipes/results"
# Instructions of threads, special functions, operations and bytes of shared memory of a multiprocessor per clock cycle.
ISSUE, SPECIAL, MATRIX, SHARED = 128, 16, 4096, 128
GROUP = 128  # threads that issue a matrix instruction of a Hopper together; an operand in shared memory is read once for all of them
PRODUCTS = {"forward": 2, "balanced": 3, "query": 3, "key_value": 4}  # matrix products, of 2 D operations per score each
REDUCED_PRODUCTS = 5  # of a key_value kernel that adds up dQ, which then is the whole backward pass
HEADS = (64, 128)
# Rows of a warp, and columns and depth of an instruction of a tensor core, in the name that the disassembler gives it.
MATRIX_NAMES = (r"HGMMA\.64x(?P<columns>\d+)x(?P<depth>\d+)", r"HMMA\.16(?P<columns>8)(?P<depth>16|8)")
WARNING = "Predictions from compiled instructions, not measurements: no GPU has run these kernels for this table."


@dataclass(frozen=True)
class Loop:
    """What a loop takes per score: instructions, how many of them are special functions, and bytes from or to shared memory, if counted."""

    issue: float
    special: float
    shared: float | None = None


def loops(code):
    """The innermost loops of a disassembled kernel, each a list of its instructions without predicates."""
    places, found, body = {}, [], []
    for line in code.splitlines():
        label = re.match(r"\s*(\.L_x_\d+):", line)
        if label:
            places[label[1]] = len(body)
        instruction = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][^;]*)", line)
        if instruction:
            body.append(instruction[1].strip())
            target = re.match(r"BRA.*`\((\.L_x_\d+)\)", body[-1])
            if target and target[1] in places and places[target[1]] < len(body) - 1:
                found.append((places[target[1]], len(body)))
    inner = [span for span in found if not any(span != other and span[0] <= other[0] and other[1] <= span[1] for other in found)]
    return [body[start:end] for start, end in inner]


def matrix_operations(instruction):
    """Operations per thread of a tensor core's instruction: 2 * 16 rows * columns * depth by 32 threads."""
    for pattern in MATRIX_NAMES:
        shape = re.match(pattern, instruction)
        if shape:
            return 2 * 16 * int(shape["columns"]) * int(shape["depth"]) / 32
    return 0


def shared_bytes(instruction):
    """Bytes of shared memory per thread of an instruction: operands of the tensor cores, loads, stores and copies from global memory."""
    matrix = re.match(r"HGMMA\.64x(?P<columns>\d+)x(?P<depth>\d+)\S* \w+, (?P<first>R\d+|gdesc)", instruction)
    if matrix:
        rows = 64 if matrix["first"] == "gdesc" else 0  # else that operand is in registers
        return (rows + int(matrix["columns"])) * int(matrix["depth"]) * 2 / GROUP
    if instruction.startswith("LDSM"):
        return 4 * int(re.search(r"\.(?:M88|MT88)(?:\.(\d))?", instruction)[1] or 1)
    if re.match(r"(LDS|STS|LDGSTS)\b", instruction):
        width = re.match(r"\S*\.(128|64|U16|S16|U8|S8)\b", instruction)
        return {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}.get(width and width[1], 4)
    return 0


def hot_loop(code, operations):
    """The loop with the fewest instructions per score, of those that multiply matrices: it is the one without a mask.

    `operations` are those of the matrix products per score; they tell how many scores a thread computes in one pass.
    """
    found = []
    for body in loops(code):
        scores = sum(map(matrix_operations, body)) / operations
        if scores:
            special = sum(name.startswith("MUFU") for name in body)
            found.append(Loop(len(body) / scores, special / scores, sum(map(shared_bytes, body)) / scores))
    return min(found, key=lambda loop: loop.issue)


def predict(loop, operations):
    """Clock cycles per score: of each unit, and of the kernel if all units overlap, and if the matrix unit overlaps with none."""
    clocks = {"issue": loop.issue / ISSUE, "special": loop.special / SPECIAL, "matrix": operations / MATRIX}
    clocks["shared"] = (loop.shared or 0.0) / SHARED
    longest = max(clocks, key=clocks.get)
    serial = max(clocks["matrix"], clocks["shared"]) + max(clocks["issue"], clocks["special"])
    return {**clocks, "overlapped": clocks[longest], "limit": longest, "serial": serial}


def entries():
    """The builds of the table: the tiles of plain calls, softmax twins of the first and of those with descriptors, balanced weights."""
    for kernel in PRODUCTS:
        for head in HEADS:
            for row, tile in enumerate(rows_of(kernel, head, 2, 90)):
                if tile.crowded:
                    continue
                yield Build(kernel, head, 2, row, "causal", 90)
                if kernel != "balanced" and (row == 0 or (tile.described and not tile.static and tile.registers is None)):
                    yield Build(kernel, head, 2, row, "softmax", 90)
            if kernel in ("query", "key_value"):
                yield Build(kernel, head, 2, 0, "balanced", 90)


def entry(build):
    """What the table says of a build, which is compiled."""
    tile = rows_of(build.kernel, build.head, build.size, build.architecture)[build.row]
    products = REDUCED_PRODUCTS if tile.reduced else PRODUCTS[build.kernel]
    return described(build, hot_loop(disassembled(compiled(build)), products * 2 * build.head))


def described(build, loop):
    """What the table says of a build whose loop is known."""
    tile = asdict(rows_of(build.kernel, build.head, build.size, build.architecture)[build.row])
    products = REDUCED_PRODUCTS if tile["reduced"] else PRODUCTS[build.kernel]
    operations = products * 2 * build.head
    weights = "balanced" if "balanced" in (build.kernel, build.features) else {"softmax": "softmax"}.get(build.features, "TanhMax")
    named = {
        "kernel": build.kernel,
        "head_dim": build.head,
        "dtype": DTYPES[build.size],
        "weights": weights,
        "row": build.row,
        "tile": tile,
    }
    rounded = {name: item if isinstance(item, str) else round(item, 4) for name, item in predict(loop, operations).items()}
    return {
        **named,
        "tile": tile,
        "products": products,
        "instructions": round(loop.issue, 2),
        "special_functions": round(loop.special, 3),
        "shared_bytes": None if loop.shared is None else round(loop.shared, 3),
        "clocks": rounded,
    }


def tile_text(tile):
    """A tile in words."""
    more = [name for name, item in tile.items() if item is True]
    return " ".join(
        [f"{tile['rows']} x {tile['columns']}, {tile['warps']} warps, {tile['stages']} stages", *(f"+ {name}" for name in more)]
    )


def fewest(twins, kernel, head, name):
    """The clock cycles of the best softmax twin of a kernel."""
    return min(twin["clocks"][name] for twin in twins if (twin["kernel"], twin["head_dim"]) == (kernel, head))


def rendered(result):
    """The table as Markdown."""
    counts = ("instructions", "special functions", "shared bytes")
    columns = ("kernel", "D", "weights", "tile", *counts, *UNITS, "limit", "serial", "to softmax")
    lines = [
        f"**{result['warning']}**",
        "",
        f"Clock cycles per attention score, sm_90, Triton {result['triton']}, bfloat16, the loop without a mask. {EXPLAINED}",
        "",
    ]
    rows = []
    twins = [each for each in result["entries"] if each["weights"] == "softmax"]
    for each in result["entries"]:
        parts = ("query", "key_value") if each["tile"]["reduced"] else (TWINS.get(each["kernel"], each["kernel"]),)
        clocks, twin = each["clocks"], {name: sum(fewest(twins, part, each["head_dim"], name) for part in parts) for name in SUMS}
        cells = [each["kernel"], each["head_dim"], each["weights"], tile_text(each["tile"])]
        cells += [f"{each['instructions']:.1f}", f"{each['special_functions']:.2f}"]
        counted = each["shared_bytes"] is not None
        cells += [f"{each['shared_bytes']:.1f}" if counted else "not counted"]
        cells += [f"{clocks[name]:.3f}" if counted or name != "shared" else "not counted" for name in UNITS]
        cells += [clocks["limit"], f"{clocks['serial']:.3f}"]
        cells += [" / ".join(f"{clocks[name] / twin[name]:.2f}" for name in SUMS)]
        rows.append(list(map(str, cells)))
    return "\n".join([*lines, table(columns, rows, markdown=True, align="none")])


TWINS = {"balanced": "forward"}  # whose softmax is meant where a kernel has none
UNITS, SUMS = ("issue", "special", "matrix", "shared", "overlapped"), ("overlapped", "serial")
EXPLAINED = (
    "By unit (per cycle, 128 threads issue an instruction, 16 special functions and 4096 matrix operations are computed, and 128 bytes of "
    "shared memory move); overlapped: the largest of them; serial: the larger of matrix and shared, plus the larger of the other two; to "
    "softmax: both, relative to the fewest that a softmax twin of the kernel has (balanced: of the forward kernel; reduced: the backward "
    "pass in one kernel, relative to the twins of the two kernels that it replaces)."
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)
    import triton

    version = ".".join(triton.__version__.split(".")[:2])
    with ThreadPoolExecutor(options.jobs) as pool:
        found = list(pool.map(entry, entries()))
    result = {"warning": WARNING, "triton": version, "architecture": "sm_90", "entries": found}
    (options.folder / f"predicted-clocks-triton-{version}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(rendered(result))


if __name__ == "__main__":
    sys.exit(main())
