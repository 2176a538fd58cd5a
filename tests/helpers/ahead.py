"""Compiles the kernels ahead of time for NVIDIA GPUs, on any machine, and counts what each tile of the schedule costs.

`python tests/helpers/ahead.py` prints one JSON line per kernel that was compiled: registers, bytes of stack, shared memory, and how many
instructions it has that spill, exponentiate, load (16 bytes, or a tile by a descriptor) and multiply matrices. It must run in a process of
its own, without TRITON_INTERPRET. `--write` stores the table for this version of Triton; with `--only`, these rows of it.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TABLES = Path(__file__).parents[1] / "compiled"
DTYPES = {2: "bf16", 4: "fp32"}
ARCHITECTURES = (90, 80, 100)
# The masking of a kernel that the table is about, and of the combinations that are compiled at head size 64 only.
FEATURES = {
    "causal": {"CAUSAL": True},
    "full": {},
    "softmax": {"CAUSAL": True, "POLARITY": 0},
    "additive": {"CAUSAL": True, "BIAS": True, "ADDITIVE": True},
    "balanced": {"CAUSAL": True, "BALANCED": True},
    "paged": {"PAGE": 1, "TABLE": True, "CAUSAL": True},
    "masked": {"CAUSAL": True, "KEEP": True},
    "split": {"CAUSAL": True, "PRECISION": "tf32x3"},
    "tf32": {"CAUSAL": True, "PRECISION": "tf32", "EXACT": False, "PASSES": 1},
    "everything": {"POLARITY": 2, **dict.fromkeys(("CAUSAL", "WINDOW", "CAPPED", "DROPOUT", "KEEP", "BIAS", "PACKED"), True)},
}
POINTERS = {"LOG_P": "fp32", "KEEP": "u8", "BITS": "i32", "TILES": "i8", "STARTS": "i32", "ENDS": "i32", "SEED": "i64", "D_BIAS": "fp32"}
POINTERS |= {"RANGES": "i32", "TABLE": "i64", "BOUNDS": "i32", "OUT": "fp32", "PARTS": "fp32", "LSES": "fp32", "NORMS": "fp32"}
DECODE_FEATURES = ("full", "softmax", "additive", "balanced", "paged", "everything")
# Kernels whose blocks are not in the table of tiles: their constants.
FIXED = {"delta": {"VALUE_DIM": 64, "BLOCK_VALUE": 64, "BLOCK_M": 64}, "mask": {}}
FIXED |= {"norm": {"DIM": 64, "BLOCK_DIM": 64, "ALIGN": 8, "BLOCK_N": 128}}
FIXED |= {kernel: {"VALUE_DIM": 64, "BLOCK_VALUE": 64, "BLOCK_S": 16} for kernel in ("combine", "combine_halves")}
FIXED |= {"range": {"BLOCK_N": 1024}}
STATISTICS = ("LSE", "STATS", "DELTA", "D_LOG_P")
FLOATS = ("scale", "cap", "factor", "dropout_p")


@dataclass(frozen=True)
class Build:
    """One kernel with one tile, for one architecture."""

    kernel: str
    head: int
    size: int
    row: int
    features: str
    architecture: int

    @property
    def name(self):
        return f"{self.kernel} D{self.head} {DTYPES[self.size]} row {self.row} {self.features} sm_{self.architecture}"


def builds():
    """Every row of the table of tiles for sm_90; the defaults of head sizes 64 and 128 on the other architectures; other features at 64.

    With a mask, the defaults of both head sizes on all architectures, and all rows for sm_90: what spills shows there. Crowded rows with
    what they are for, and those of float32 on tensor cores in both precisions.
    """
    from hf_tanhmax.attention.kernels.schedule import TABLE

    for kernel, head, size in TABLE:
        if kernel.startswith("decode"):
            features = DECODE_FEATURES if head in (64, 128) and size == 2 and kernel == "decode_16" else ("full",)
            yield from (Build(kernel, head, size, 0, feature, 90) for feature in features)
            continue
        for architecture in ARCHITECTURES:
            for row in range(len(rows_of(kernel, head, size, architecture))):
                tile = rows_of(kernel, head, size, architecture)[row]
                if tile.rounded and architecture == 90:
                    yield from (Build(kernel, head, size, row, features, architecture) for features in ("split", "tf32"))
                elif not tile.rounded and (architecture == 90 or (head in (64, 128) and size == 2 and row == 0 and kernel != "bias")):
                    yield Build(kernel, head, size, row, "causal", architecture)
                if tile.crowded and architecture == 90:
                    yield from (Build(kernel, head, size, row, features, architecture) for features in ("additive", "everything"))
                if head in (64, 128) and size == 2 and kernel != "bias" and (architecture == 90 or row == 0):
                    yield Build(kernel, head, size, row, "masked", architecture)
        if head == 64 and size == 2 and kernel in ("forward", "balanced", "key_value"):
            known = ("causal", "paged", "masked", "balanced", "split", "tf32", "softmax" if kernel == "balanced" else None)
            yield from (Build(kernel, head, size, 0, features, 90) for features in FEATURES if features not in known)
        if head in (64, 128) and size == 2 and kernel in ("key_value", "query", "bias"):
            yield Build(kernel, head, size, 0, "balanced", 90)
    yield from (Build(kernel, 64, 2, 0, "full", architecture) for kernel in FIXED for architecture in ARCHITECTURES)


def sampled(build):
    """Whether a build is one of the few that stand for the others: half precision, head size 64, the first row and the last, for sm_90."""
    last = build.kernel not in FIXED and build.row == len(rows_of(build.kernel, build.head, build.size, 90)) - 1
    return (build.head, build.size, build.architecture) == (64, 2, 90) and (build.row == 0 or last)


def rows_of(kernel, head, size, architecture):
    """The rows of the table of tiles for an architecture."""
    from hf_tanhmax.attention.kernels.schedule import tiles

    return tiles(kernel, head, size, divmod(architecture, 10))


def arguments(build):
    """The tile of a build, its constants by parameter, and the names of the pointers that are None."""
    from hf_tanhmax.attention.kernels.schedule import Tile

    if build.kernel in FIXED:
        return Tile(0, 0, 8 if build.kernel == "norm" else 4, 1), FIXED[build.kernel], set()
    tile = rows_of(build.kernel, build.head, build.size, build.architecture)[build.row]
    wanted = FEATURES[build.features]
    constants = dict.fromkeys(("DIM", "VALUE_DIM", "BLOCK_DIM", "BLOCK_VALUE"), build.head)
    constants |= {"ALIGN": 8, "BLOCK_M": tile.rows, "BLOCK_N": tile.columns, "POLARITY": 1, "PRECISION": "ieee"}
    constants |= dict.fromkeys(("CAUSAL", "WINDOW", "CAPPED", "DROPOUT", "ADDITIVE", "BALANCED", "SHARED_M", "SHARED_N"), False)
    constants |= {"EXACT": build.size == 4, "PARTIAL": True, "PAGE": 1, "POLYNOMIAL": tile.polynomial}
    constants["DESCRIBED"] = tile.described
    constants["PASSES"] = 2 if build.size == 4 else 1
    constants |= {name: value for name, value in wanted.items() if name in constants}
    if constants["BALANCED"] or build.kernel == "balanced":
        constants |= {"BALANCED": True, "POLARITY": 1}
    present = {
        "LOG_P": constants["POLARITY"] == 2 or constants["BALANCED"],
        "SEED": "DROPOUT" in wanted,
        "KEEP": "KEEP" in wanted,
        "BITS": "KEEP" in wanted,
        "TILES": "KEEP" in wanted,
    }
    present |= {"BIAS": "BIAS" in wanted or build.kernel == "bias", "STARTS": "PACKED" in wanted, "ENDS": "PACKED" in wanted}
    present |= {"RANGES": "KEEP" in wanted, "TABLE": "TABLE" in wanted, "BOUNDS": "TABLE" in wanted}
    present |= {"SUM_Q": False, "NORMS": tile.static, "D_LOG_P": constants["POLARITY"] == 2}
    present["STATS"] = build.size == 4 and constants["PRECISION"] != "tf32"
    present["OPPOSITE"] = constants["BALANCED"] and (build.size == 2 or build.kernel.startswith("decode"))
    return tile, constants, {name for name, given in present.items() if not given}


def compiled(build):
    """The compiled kernel, by Triton's public compiler interface; no driver and no GPU are asked."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hf_tanhmax.attention.kernels import backward, decode, forward, masks, shift

    kernel = "forward" if build.kernel == "balanced" else build.kernel
    names = f"{kernel}_kernel", f"{kernel.split('_')[0]}_kernel"
    modules = forward, backward, decode, masks, shift
    function = next(getattr(module, name) for module in modules for name in names if hasattr(module, name))
    tile, constants, absent = arguments(build)
    signature, values, attributes = {}, {}, {}
    for index, name in enumerate(function.arg_names):
        if name in ("K", "V") and tile.described:
            signature[name] = f"tensordesc<{DTYPES[build.size]}[1, 1, {tile.columns}, {build.head}]>"
        elif name == "SUM_Q" and tile.reduced:
            signature[name] = f"tensordesc<fp32[1, 1, {tile.rows}, {build.head}]>"
        elif name in constants or name in absent:
            signature[name], values[index,] = "constexpr", constants.get(name)
        elif name.isupper():
            exact = name in STATISTICS or (name == "OPPOSITE" and kernel != "forward")
            signature[name] = "*" + POINTERS.get(name, "fp32" if exact else DTYPES[build.size])
            attributes[index,] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if name in FLOATS else "i32"
    source = ASTSource(fn=function, signature=signature, constexprs=values, attrs=attributes)
    options = {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True, "maxnreg": tile.registers}
    return triton.compile(source, target=GPUTarget("cuda", build.architecture, 32), options=options)


def inspected(kernel, *command):
    """What one of the tools that come with Triton says about a compiled kernel."""
    import triton

    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(kernel.asm["cubin"])
        return subprocess.run([tools / command[0], *command[1:], binary], capture_output=True, text=True, check=True).stdout


def disassembled(kernel):
    """The instructions of a compiled kernel."""
    return inspected(kernel, "nvdisasm", "-c")


def costs(kernel):
    """Registers, spilled bytes, shared memory and instruction counts of a compiled kernel."""
    usage, code = inspected(kernel, "cuobjdump", "-res-usage"), disassembled(kernel)
    registers, stack = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK"))
    patterns = {"spills": r"\bSTL", "ex2": r"MUFU\.EX2", "wide": r"LDG\S*\.128|LDGSTS\S*\.128|UTMALDG"}
    patterns["matrix"] = r"\b(?:HGMMA|HMMA|UTCHMMA)\b"
    counts = {key: len(re.findall(pattern, code)) for key, pattern in patterns.items()}
    return {"registers": registers, "stack": stack, "shared": kernel.metadata.shared, **counts}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=[""], nargs="+", help="parts of the name, one of which it has")
    parser.add_argument("--sample", action="store_true", help="only what `sampled` takes")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)
    import triton

    def one(build):
        return build.name, costs(compiled(build))

    chosen = [build for build in builds() if sampled(build) or not options.sample]
    table = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        for name, cost in pool.map(one, (build for build in chosen if any(part in build.name for part in options.only))):
            table[name] = cost
            print(json.dumps({"name": name, **cost}), flush=True)
    if options.write:
        TABLES.mkdir(exist_ok=True)
        path = TABLES / f"triton-{'.'.join(triton.__version__.split('.')[:2])}.json"
        if options.only != [""]:
            known = {**json.loads(path.read_text()), **table}
            table = {build.name: known[build.name] for build in builds() if build.name in known}
        path.write_text("{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(cost)}" for name, cost in table.items()) + "\n}\n")


if __name__ == "__main__":
    sys.exit(main())
