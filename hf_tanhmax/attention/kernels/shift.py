r"""A shift of the exponents from a bound on the scores, so that the forward loop needs neither a running maximum nor a rescaling.

By Cauchy and Schwarz no score of row i is larger than :math:`B_i = s |q_i| \max_j |k_j|` (or than its softcap). As cosh is at least 1, the
sum of a row at polarity 1 cannot vanish, and the shift may be any number with which nothing overflows: in units of log 2,
:math:`\max(0, \lceil B_i - 60 \rceil)`. Exponents then are at most 60. Of the two exponentials of a score the larger is at least 1 before
the shift, so their difference is lost nowhere while B is at most 140; up to 92 neither of the two underflows, as the polynomial needs.

A block of rows whose bound is larger (or not a number) walks with the running maximum instead. So does one whose sums have come out
infinite or not a number, in which values beyond 1e15 or not finite took part: its result is the running maximum's, whatever that is.

The polynomial gives both exponentials of one score in four without the special-function unit: :math:`x = i + f` with an integer i and
:math:`|f| \le 1/2`, :math:`2^{\pm f} \approx E(f^2) \pm f O(f^2)`, and i goes into the exponent bits. As both come from the same E and O,
their difference keeps its sign and its relative error (1e-4, below the rounding to bfloat16) down to the smallest scores. The coefficients
are the minimax ones for the relative error of degree 3 with E(0) = 1.
"""

import struct

import triton
import triton.language as tl

from .primitives import LN2, Matrix, Rows, load_tile
from .support import interpreted

INTERPRETED = tl.constexpr(interpreted())
NORM_BLOCK = tl.constexpr(128)  # keys whose largest norm is one number
HIGHEST = tl.constexpr(60.0)  # exponent: 2^60 times the values and their number stays far below float32's 2^128
FURTHEST, FURTHEST_POLYNOMIAL = tl.constexpr(140.0), tl.constexpr(92.0)  # bounds
SLACK = tl.constexpr(1.002)  # operands that are rounded to TF32 grow by up to 2^-11 each
EVEN, ODD_1, ODD_3 = tl.constexpr(0.242210972), tl.constexpr(0.693282929), tl.constexpr(0.0550089297)
# 1.5 * 2^23: a float32 to which it is added is rounded, with the integer in its lowest bits. Bits that a shift by 23 leaves are 0.
ROUNDER = tl.constexpr(12582912.0)


@triton.jit(do_not_specialize=["k_b", "k_h", "k_n", "keys", "kv_heads"])
def norm_kernel(
    K, NORMS, k_b, k_h, k_n, keys, kv_heads, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, ALIGN: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """The largest squared norm of each block of BLOCK_N keys, [batch * kv_heads, blocks] in float32; infinite if one is not a number."""
    blocks = tl.cdiv(keys, BLOCK_N)
    i_bh, i_n = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK_N
    i_b, i_h = (i_bh // kv_heads).to(tl.int64), (i_bh % kv_heads).to(tl.int64)
    o_n, o_d = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_DIM)
    p_k = K + (i_b * k_b + i_h * k_h) * ALIGN
    b_k = load_tile(Matrix(p_k, k_n * ALIGN, o_d, DIM, BLOCK_DIM), Rows(i_n, o_n, keys), MASKED=True).to(tl.float32)
    b_sq = tl.sum(b_k * b_k, 1)
    tl.store(NORMS + tl.program_id(0), tl.max(tl.where(b_sq == b_sq, b_sq, float("inf")), 0))


@triton.jit
def static_shift(b_q, NORMS, i_bh, keys, scoring, POLYNOMIAL: tl.constexpr):
    """Shifts of some rows, [BLOCK_M], and whether all of these rows have a bound that allows them.

    The units are those of the scores: of log 2, or (exact) natural.
    """
    blocks = tl.cdiv(keys, NORM_BLOCK)
    b_norms = tl.zeros([NORM_BLOCK], tl.float32)
    for i in range(0, blocks, NORM_BLOCK):
        o_block = i + tl.arange(0, NORM_BLOCK)
        b_norms = tl.maximum(b_norms, tl.load(NORMS + i_bh.to(tl.int64) * blocks + o_block, mask=o_block < blocks, other=0.0))
    b_rows = b_q.to(tl.float32)
    b_bound = tl.sqrt(tl.sum(b_rows * b_rows, 1)) * (tl.sqrt(tl.max(b_norms, 0)) * SLACK * tl.abs(scoring.scale))
    if scoring.capped:
        b_bound = tl.minimum(b_bound * scoring.cap, scoring.cap)
    unit = LN2 if scoring.exact else 1.0
    furthest = (FURTHEST_POLYNOMIAL if POLYNOMIAL else FURTHEST) * unit
    b_shift = tl.ceil(tl.maximum(b_bound - HIGHEST * unit, 0.0))
    return b_shift, tl.max(tl.where(b_bound <= furthest, 0, 1), 0) == 0


@triton.jit
def all_finite(b_acc):
    """Whether no element of a tile is infinite or not a number."""
    return tl.max(tl.max(tl.where(tl.abs(b_acc) < float("inf"), 0, 1), 1), 0) == 0


def _float(number: float) -> str:
    """A float32 as PTX writes it."""
    return f"0f{struct.pack('>f', number).hex()}"


# Four elements at a time: $0 to $3 take the positive exponentials, $4 to $7 the negative ones; $8 to $11 are x, $12 to $15 the shift.
_BOTH_SPECIAL = "".join(
    f"""
sub.f32 t, ${8 + i}, ${12 + i}; ex2.approx.ftz.f32 ${i}, t; add.f32 t, ${8 + i}, ${12 + i}; neg.f32 t, t; ex2.approx.ftz.f32 ${4 + i}, t;"""
    for i in range(3)
)
_BOTH_POLYNOMIAL = f"""
sub.rn.f32 c, {_float(ROUNDER.value)}, $15; add.rn.f32 t, $11, c; sub.rn.f32 i, t, c; sub.rn.f32 f, $11, i; mul.rn.f32 g, f, f;
fma.rn.f32 e, g, {_float(EVEN.value)}, {_float(1.0)}; fma.rn.f32 o, g, {_float(ODD_3.value)}, {_float(ODD_1.value)}; mul.rn.f32 o, o, f;
add.rn.f32 p, e, o; sub.rn.f32 n, e, o; mov.b32 u, t; shl.b32 u, u, 23; mov.b32 v, c; shl.b32 v, v, 24;
mov.b32 a, p; add.s32 a, a, u; mov.b32 $3, a; mov.b32 b, n; sub.s32 b, b, u; add.s32 b, b, v; mov.b32 $7, b;
"""
MIXED = tl.constexpr(f"{{ .reg .f32 t,c,i,f,g,e,o,p,n; .reg .b32 u,v,a,b;\n{_BOTH_SPECIAL}{_BOTH_POLYNOMIAL}}}")
MIXED_OPERANDS = tl.constexpr(",".join(["=f"] * 8 + ["f"] * 8))


@triton.jit
def polynomial_pair(b_x, b_shift):
    """Both exponentials by the polynomial, step by step as the instructions above have it."""
    b_c = -b_shift + ROUNDER
    b_t = b_x + b_c
    b_f = b_x - (b_t - b_c)
    b_g = b_f * b_f
    b_even, b_odd = b_g * EVEN + 1.0, (b_g * ODD_3 + ODD_1) * b_f
    b_up = b_t.to(tl.int32, bitcast=True) << 23  # the integer less the shift
    b_down = (b_c.to(tl.int32, bitcast=True) << 24) - b_up  # less the integer, less the shift
    b_p = ((b_even + b_odd).to(tl.int32, bitcast=True) + b_up).to(tl.float32, bitcast=True)
    b_n = ((b_even - b_odd).to(tl.int32, bitcast=True) + b_down).to(tl.float32, bitcast=True)
    return b_p, b_n


@triton.jit
def mixed_pair(b_x, b_shift, o_column):
    """Both exponentials in units of log 2, of one element in four by the polynomial: which one, is up to the layout of the registers."""
    if INTERPRETED:
        b_p, b_n = polynomial_pair(b_x, b_shift)
        m_special = o_column % 4 != 3
        b_p = tl.where(m_special, tl.exp2(b_x - b_shift), b_p)
        b_n = tl.where(m_special, tl.exp2(-b_x - b_shift), b_n)
    else:
        b_p, b_n = tl.inline_asm_elementwise(
            MIXED, MIXED_OPERANDS, [b_x, b_shift], dtype=(tl.float32, tl.float32), is_pure=True, pack=4
        )  # fmt: skip
    return b_p, b_n
