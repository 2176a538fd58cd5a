r"""The passes over a tile of scores in C++: one where `blocked` takes five with torch's own operators, for float32 on the CPU.

Built on first use by torch's extension loader, where there is a compiler and ninja; kept in a folder of its own for each version of this
code, each torch and each kind of CPU. It is never required: where it cannot be built `why_no_native` says why, in one line that is also
logged once, and `blocked` computes the same with torch's operators, to rounding. HF_TANHMAX_NATIVE=0 asks for those.

Both exponentials come from one split of the exponent :math:`x = n + f`, `n` whole, :math:`f^2 \le 1/4`: with the even and odd parts of
:math:`2^f` as polynomials :math:`e` and :math:`o` in :math:`f`,

.. math:: P = 2^n (e + o), \quad N = p\,2^{-n} (e - o), \quad W' = P - N.

So the map is odd to the bit, and keeps its digits where the scores are small.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")

SOURCE = r"""
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t LANES = 16;       // independent sums, so that loops become vector code without reordering any sum
constexpr int64_t ALONE = 1 << 14;  // a tile of fewer scores is not worth a second thread

inline float power_of_two(int32_t n) {  // 2^n for -126 <= n <= 127
  const int32_t bits = (n + 127) * (1 << 23);
  float found;
  std::memcpy(&found, &bits, sizeof found);
  return found;
}

// 2^x and 2^-x for |x| < 126, by minimax polynomials on |f| <= 1/2: relative errors 5e-11 (even) and 1.1e-8 (odd) before rounding.
inline void exponentials(float x, float& positive, float& negative) {
  constexpr float whole = 12582912.0f;  // 1.5 * 2^23: adding and taking it away rounds to the nearest integer
  const float n = (x + whole) - whole, f = x - n, g = f * f;
  const float even = 1.0f + g * (0.240226510699f + g * (0.00961803768228f + g * 0.000154668887246f));
  const float odd = f * (0.693147187958f + g * (0.0555035733248f + g * 0.00133907759805f));
  const int32_t exponent = static_cast<int32_t>(n);
  positive = power_of_two(exponent) * (even + odd);
  negative = power_of_two(-exponent) * (even - odd);
}

float total_of(const float* sums) {
  float found = 0.0f;
  for (int64_t lane = 0; lane < LANES; ++lane) found += sums[lane];
  return found;
}

struct Row {
  float* weights;
  float* negatives;
  const uint8_t* seen;
  int64_t step;
  float polarity;
};

template <bool MASKED, bool KEPT>
inline float weigh_one(const Row& row, int64_t column, int64_t hidden) {
  float positive, negative;
  exponentials(row.weights[column], positive, negative);
  negative *= row.polarity;
  if (MASKED) {
    const float visible = static_cast<float>(row.seen[(column - hidden) * row.step]);
    positive *= visible;
    negative *= visible;
  }
  row.weights[column] = positive - negative;
  if (KEPT) row.negatives[column] = negative;
  return positive + negative;
}

template <bool MASKED, bool KEPT>
float weigh_columns(const Row& row, int64_t start, int64_t stop, int64_t hidden) {
  float sums[LANES] = {};
  int64_t column = start;
  for (; column + LANES <= stop; column += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) sums[lane] += weigh_one<MASKED, KEPT>(row, column + lane, hidden);
  for (; column < stop; ++column) sums[0] += weigh_one<MASKED, KEPT>(row, column, hidden);
  return total_of(sums);
}

template <bool KEPT>
float weigh_row(const Row& row, int64_t columns, int64_t hidden) {
  if (row.seen == nullptr) return weigh_columns<false, KEPT>(row, 0, columns, 0);
  float total = weigh_columns<false, KEPT>(row, 0, hidden, 0);
  if (row.step == 1) {
    const Row contiguous{row.weights, row.negatives, row.seen, 1, row.polarity};
    return total + weigh_columns<true, KEPT>(contiguous, hidden, columns, hidden);
  }
  return total + weigh_columns<true, KEPT>(row, hidden, columns, hidden);
}

}  // namespace

extern "C" {

// scores [entries, heads, rows, columns], times log2(e): become the weights W'. negatives: N, if it is wanted.
// total [entries, heads, rows]: the sum of P + N, the denominator.
// seen: bytes for the columns from `hidden` on, with strides for entries, heads, rows and columns; or null.
void hf_tanhmax_weigh(float* scores, float* negatives, float* total, const float* polarity, const uint8_t* seen, const int64_t* strides,
                      int64_t entries, int64_t heads, int64_t rows, int64_t columns, int64_t hidden) {
  const int64_t count = entries * heads * rows;
#pragma omp parallel for schedule(static) if (count * columns > ALONE)
  for (int64_t index = 0; index < count; ++index) {
    const int64_t entry = index / (heads * rows), head = index / rows % heads, place = index % rows;
    const uint8_t* mask = seen == nullptr ? nullptr : seen + entry * strides[0] + head * strides[1] + place * strides[2];
    const Row row{scores + index * columns, negatives == nullptr ? nullptr : negatives + index * columns, mask, strides[3], polarity[head]};
    total[index] = negatives == nullptr ? weigh_row<false>(row, columns, hidden) : weigh_row<true>(row, columns, hidden);
  }
}

// grads [count, columns]: dO V^T over the denominator; become the gradient of the scores. inverse [count]: 1 over the denominator.
// sums [count]: those of N (dP + D), over the denominator, if they are wanted.
void hf_tanhmax_score_gradient(float* grads, const float* weights, const float* negatives, const float* inverse, float* sums,
                               int64_t count, int64_t columns) {
#pragma omp parallel for schedule(static) if (count * columns > ALONE)
  for (int64_t index = 0; index < count; ++index) {
    float* const grad = grads + index * columns;
    const float* const weight = weights + index * columns;
    const float* const negative = negatives + index * columns;
    float products[LANES] = {};
    const int64_t even = columns / LANES * LANES;
    for (int64_t column = 0; column < even; column += LANES)
      for (int64_t lane = 0; lane < LANES; ++lane) products[lane] += grad[column + lane] * weight[column + lane];
    for (int64_t column = even; column < columns; ++column) products[0] += grad[column] * weight[column];
    const float delta = total_of(products) * inverse[index];
    if (sums != nullptr) {
      float parts[LANES] = {};
      for (int64_t column = 0; column < even; column += LANES)
        for (int64_t lane = 0; lane < LANES; ++lane)
          parts[lane] += negative[column + lane] * (grad[column + lane] + delta);
      for (int64_t column = even; column < columns; ++column) parts[0] += negative[column] * (grad[column] + delta);
      sums[index] = total_of(parts);
    }
    for (int64_t column = 0; column < columns; ++column)
      grad[column] = weight[column] * (grad[column] - delta) + 2.0f * negative[column] * grad[column];
  }
}

}  // extern "C"
"""


class NativeTiles:
    """What `tiles.TorchTiles` does, by the two functions of the library, for float32.

    Args:
        path: the shared library.
    """

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        self._weigh, self._score_gradient = library.hf_tanhmax_weigh, library.hf_tanhmax_score_gradient
        self._weigh.argtypes = [pointer] * 6 + [integer] * 5
        self._score_gradient.argtypes = [pointer] * 5 + [integer] * 2
        self._weigh.restype = self._score_gradient.restype = None

    def weigh(self, scores: Tensor, other: Tensor, polarity: Tensor, seen: Tensor | None, hidden: int, *, keep: bool) -> Tensor:
        """As `tiles.TorchTiles.weigh`; `other` is written only if `keep` is asked for."""
        total = torch.empty(scores.shape[:3])
        strides = (ctypes.c_int64 * 4)()
        if seen is not None:
            seen = seen.expand(*scores.shape[:3], scores.shape[3] - hidden)
            strides[:] = list(seen.stride())
        tensors = (scores, other if keep else None, total, polarity, seen)
        self._weigh(*map(_start, tensors), strides, *scores.shape, hidden)
        return total.unsqueeze(-1)

    def score_gradient(self, grads: Tensor, weights: Tensor, negatives: Tensor, inverse: Tensor, *, sums: bool) -> Tensor | None:
        """As `tiles.TorchTiles.score_gradient`."""
        found = torch.empty(*grads.shape[:3], 1) if sums else None
        self._score_gradient(*map(_start, (grads, weights, negatives, inverse, found)), inverse.numel(), grads.shape[-1])
        return found


def _start(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def native_tiles() -> NativeTiles | None:
    """The library, built on first use; None where `why_no_native` says why not."""
    found = _built()
    return found if isinstance(found, NativeTiles) else None


def why_no_native() -> str | None:
    """Why the passes run with torch's own operators here, as a sentence; None if they do not."""
    found = _built()
    return None if isinstance(found, NativeTiles) else found


@functools.cache
def _built() -> NativeTiles | str:
    if os.environ.get("HF_TANHMAX_NATIVE") == "0":
        return "HF_TANHMAX_NATIVE=0 asks for torch's own operators"
    try:
        return NativeTiles(_build())
    except Exception as error:
        reason = f"the C++ passes of TanhMax could not be built ({_first_line(error)}), so attention on the CPU takes longer"
        logger.warning("%s; HF_TANHMAX_NATIVE=0 says that this is meant", reason)
        return reason


def _build() -> Path:
    from torch.utils.cpp_extension import get_default_build_root, load_inline

    name = "hf_tanhmax_tiles"
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()) / f"{name}_{_kind()}"
    path = folder / f"{name}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        options = {"no_implicit_headers": True, "is_python_module": False, "with_cuda": False}
        load_inline(name, SOURCE, extra_cflags=list(FLAGS), build_directory=str(folder), **options)
    return path


def _kind() -> str:
    """What a library depends on: this source, its flags, torch, and what the CPU can do (`-march=native`)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    able = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    parts = (SOURCE, *FLAGS, torch.__version__, platform.machine(), platform.processor(), able)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
