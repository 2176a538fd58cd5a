"""An experiment that is compiled and has never run: the forward pass in Gluon, two groups of warps that take turns at the matrix unit.

`python tests/helpers/pingpong.py` prints, for the installed Triton, a JSON line per head size, without and with the polynomial: the costs
of `ahead` and the predicted clocks of `predicted`. Not masked, not strided, with one shift for all rows: enough to see what the compiler
makes of it. One group of four warps loads tiles by descriptors; two groups of four own 64 rows each, and while one multiplies, the other
exponentiates. It needs sm_90, and Gluon has no interpreter.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

sys.path.insert(0, str(Path(__file__).parent))
from ahead import costs, disassembled
from predicted import hot_loop, predict

from hf_tanhmax.attention.kernels import shift

# Triton 3.9 has renamed it.
load = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared
MIXED, OPERANDS = gl.constexpr(shift.MIXED.value), gl.constexpr(shift.MIXED_OPERANDS.value)


@gluon.jit
def fill(K, V, s_k, s_v, full_k, full_v, free_k, free_v, row, count, BLOCK_N: gl.constexpr, STAGES: gl.constexpr):
    """Keep STAGES tiles of keys and values in shared memory."""
    for i in range(count):
        stage = i % STAGES
        phase = (i // STAGES & 1) ^ 1
        mbarrier.wait(free_k.index(stage), phase)
        mbarrier.expect(full_k.index(stage), K.block_type.nbytes)
        load(K, [row + i * BLOCK_N, 0], full_k.index(stage), s_k.index(stage))
        mbarrier.wait(free_v.index(stage), phase)
        mbarrier.expect(full_v.index(stage), V.block_type.nbytes)
        load(V, [row + i * BLOCK_N, 0], full_v.index(stage), s_v.index(stage))


@gluon.jit
def work(
    OUT, s_q, s_k, s_v, full_k, full_v, free_k, free_v, turns, shift, row, count, scale, GROUP: gl.constexpr, DIM: gl.constexpr,
    BLOCK_N: gl.constexpr, STAGES: gl.constexpr, POLYNOMIAL: gl.constexpr,
):  # fmt: skip
    """64 rows of the output, by one of the two groups."""
    scores: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK_N, 16])
    sums: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, DIM, 16])
    weights: gl.constexpr = gl.DotOperandLayout(0, sums, 2)
    b_acc = gl.zeros([64, DIM], gl.float32, sums)
    b_sum = gl.zeros([64], gl.float32, gl.SliceLayout(1, scores))
    b_zero = gl.zeros([64, BLOCK_N], gl.float32, scores)
    for i in range(count):
        stage = i % STAGES
        phase = i // STAGES & 1
        mbarrier.wait(full_k.index(stage), phase)
        mbarrier.wait(turns.index(GROUP), (i & 1) ^ (1 - GROUP))
        b_x = warpgroup_mma(s_q.index(GROUP), s_k.index(stage).permute((1, 0)), b_zero, use_acc=False, is_async=True)
        b_x = warpgroup_mma_wait(0, deps=(b_x,))
        mbarrier.arrive(free_k.index(stage), count=1)
        mbarrier.arrive(turns.index(1 - GROUP), count=1)
        b_x = b_x * scale
        if POLYNOMIAL:
            b_p, b_n = gl.inline_asm_elementwise(
                MIXED, OPERANDS, [b_x, b_zero + shift], dtype=(gl.float32, gl.float32), is_pure=True, pack=4
            )  # fmt: skip
        else:
            b_p, b_n = gl.exp2(b_x - shift), gl.exp2(-b_x - shift)
        b_sum += gl.sum(b_p + b_n, 1)
        b_w = gl.convert_layout((b_p - b_n).to(gl.bfloat16), weights)
        mbarrier.wait(full_v.index(stage), phase)
        b_acc = warpgroup_mma(b_w, s_v.index(stage), b_acc, is_async=True)
        b_acc = warpgroup_mma_wait(0, deps=(b_acc,))
        mbarrier.arrive(free_v.index(stage), count=1)
    b_acc = b_acc / gl.convert_layout(b_sum, gl.SliceLayout(1, sums))[:, None]
    o_row = row + GROUP * 64 + gl.arange(0, 64, gl.SliceLayout(1, sums))
    o_column = gl.arange(0, DIM, gl.SliceLayout(0, sums))
    gl.store(OUT + o_row[:, None] * DIM + o_column[None, :], b_acc.to(gl.bfloat16))


@gluon.jit
def kernel(
    Q, K, V, OUT, shift, scale, queries, keys, DIM: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr, POLYNOMIAL: gl.constexpr
):  # fmt: skip
    """128 rows of one head, by twelve warps: all tensors are dense [batch * heads * length, DIM]."""
    s_q = gl.allocate_shared_memory(gl.bfloat16, [2, 64, DIM], Q.layout)
    s_k = gl.allocate_shared_memory(gl.bfloat16, [STAGES, BLOCK_N, DIM], K.layout)
    s_v = gl.allocate_shared_memory(gl.bfloat16, [STAGES, BLOCK_N, DIM], V.layout)
    full_k = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    full_v = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free_k = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free_v = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    turns = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    full_q = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full_k.index(stage), count=1)
        mbarrier.init(full_v.index(stage), count=1)
        mbarrier.init(free_k.index(stage), count=2)
        mbarrier.init(free_v.index(stage), count=2)
    for group in gl.static_range(2):
        mbarrier.init(turns.index(group), count=1)
    mbarrier.init(full_q, count=1)
    i_bh = gl.program_id(1)
    row = i_bh * queries + gl.program_id(0) * 128
    mbarrier.expect(full_q, 2 * Q.block_type.nbytes)
    load(Q, [row, 0], full_q, s_q.index(0))
    load(Q, [row + 64, 0], full_q, s_q.index(1))
    mbarrier.wait(full_q, 0)
    count = keys // BLOCK_N
    gl.warp_specialize(
        [
            (
                work,
                (OUT, s_q, s_k, s_v, full_k, full_v, free_k, free_v, turns, shift, row, count, scale, 0, DIM, BLOCK_N, STAGES, POLYNOMIAL),
            ),
            (
                work,
                (OUT, s_q, s_k, s_v, full_k, full_v, free_k, free_v, turns, shift, row, count, scale, 1, DIM, BLOCK_N, STAGES, POLYNOMIAL),
            ),
            (fill, (K, V, s_k, s_v, full_k, full_v, free_k, free_v, i_bh * keys, count, BLOCK_N, STAGES)),
        ],
        [4, 4],
        [240, 24],
    )


def entry(dim, *, polynomial):
    """Costs and predicted clocks of one head size."""
    constants = {"DIM": dim, "BLOCK_N": 128, "STAGES": 2, "POLYNOMIAL": polynomial}
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    types = {"OUT": "*bf16", "shift": "fp32", "scale": "fp32", "queries": "i32", "keys": "i32"}
    types |= {name: f"tensordesc<bf16[{rows}, {dim}],{layout!r}>" for name, rows in (("Q", 64), ("K", 128), ("V", 128))}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in ("OUT", "queries", "keys")}
    source = GluonASTSource(kernel, signature, {(names.index(name),): item for name, item in constants.items()}, attributes)
    found = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "enable_fp_fusion": True})
    loop = hot_loop(disassembled(found), 4 * dim)
    cost = {"warps": found.metadata.num_warps, **costs(found)}
    return {
        "triton": triton.__version__,
        "head_dim": dim,
        "polynomial": polynomial,
        **cost,
        **asdict(loop),
        "clocks": predict(loop, 4 * dim),
    }


def main():
    for dim in (64, 128):
        for polynomial in (False, True):
            sys.stdout.write(json.dumps(entry(dim, polynomial=polynomial)) + "\n")


if __name__ == "__main__":
    sys.exit(main())
