
// The map of one row of scores to weights, and of both halves of it. `build.py` puts this in front of attention.cpp.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>

namespace {

constexpr int64_t LANES = 16;       // independent sums, so that loops become vector code without reordering any sum
constexpr int64_t ALONE = 1 << 14;  // fewer scores are not worth a second thread
constexpr float LOG2_OF_E = 1.44269504088896341f;

constexpr float PLAIN_LIMIT = 60.0f;  // scores that are known to be below need no shift

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

struct Split {
  float even, odd;
  int32_t whole;
};

// 2^(whole + f) = 2^whole (even + odd) for |f| <= 1/2, and 2^-f = even - odd. Minimax polynomials: relative errors 5e-11 (even) and 1.1e-8.
inline Split split(float f, float whole) {
  const float g = f * f;
  const float even = 1.0f + g * (0.240226510699f + g * (0.00961803768228f + g * 0.000154668887246f));
  const float odd = f * (0.693147187958f + g * (0.0555035733248f + g * 0.00133907759805f));
  return {even, odd, static_cast<int32_t>(whole)};
}

inline float power_of_two(int32_t n) {  // for -126 <= n <= 127
  const int32_t bits = (n + 127) * (1 << 23);
  float found;
  std::memcpy(&found, &bits, sizeof found);
  return found;
}

inline float nearest(float x) {
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding and taking it away rounds to the nearest integer
  return (x + magic) - magic;
}

inline float exponential(float x) {  // e^x for x <= 0; 0 below -87; finite above 0, where only hidden keys are
  constexpr float low_part = 1.92596303e-8f;  // log2(e) - LOG2_OF_E
  const float below = x > 0.0f ? 0.0f : x, bounded = below < -87.0f ? -87.0f : below;
  const float n = nearest(bounded * LOG2_OF_E);
  const Split parts = split(std::fma(bounded, LOG2_OF_E, -n) + bounded * low_part, n);
  const float found = power_of_two(parts.whole) * (parts.even + parts.odd);
  return x < -87.0f ? 0.0f : found;
}

inline float number_of(float number) { return number; }

inline float number_of(uint16_t half) {  // of bfloat16
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float found;
  std::memcpy(&found, &bits, sizeof found);
  return found;
}

// visit(column, lane) for the columns from low to high, in lanes.
template <class Visit>
inline void by_lanes(int64_t low, int64_t high, const Visit& visit) {
  int64_t column = low;
  for (; column + LANES <= high; column += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) visit(column + lane, lane);
  for (; column < high; ++column) visit(column, 0);
}

float total_of(const float* sums) {
  float halves[LANES / 2], quarters[LANES / 4];
  for (int64_t lane = 0; lane < LANES / 2; ++lane) halves[lane] = sums[lane] + sums[lane + LANES / 2];
  for (int64_t lane = 0; lane < LANES / 4; ++lane) quarters[lane] = halves[lane] + halves[lane + LANES / 4];
  return (quarters[0] + quarters[2]) + (quarters[1] + quarters[3]);
}

// The map of one row: how a score becomes P and N.
struct Plain {
  float polarity;
  inline void operator()(float x, float& positive, float& negative) const {  // x: times log2(e), |x| < 126
    const float n = nearest(x);
    const Split parts = split(x - n, n);
    positive = power_of_two(parts.whole) * (parts.even + parts.odd);
    negative = polarity * (power_of_two(-parts.whole) * (parts.even - parts.odd));
  }
};

struct Shifted {
  float highest, log_polarity;
  inline void operator()(float x, float& positive, float& negative) const {
    positive = exponential(x - highest);
    negative = exponential((log_polarity - highest) - x);
  }
};

// With a balanced shift P and N have denominators of their own, which cancel in what is small; so P - N is formed before, and exact where
// 2^n is 1.
struct PlainApart {
  inline void operator()(float x, float& positive, float& negative, float& difference) const {
    const float n = nearest(x);
    const Split parts = split(x - n, n);
    const float up = power_of_two(parts.whole), down = power_of_two(-parts.whole);
    positive = up * (parts.even + parts.odd);
    negative = down * (parts.even - parts.odd);
    difference = (up - down) * parts.even + (up + down) * parts.odd;
  }
};

struct ShiftedApart {
  float highest, lowest;
  inline void operator()(float x, float& positive, float& negative, float& difference) const {
    positive = exponential(x - highest);
    negative = exponential(lowest - x);
    difference = 0.0f;  // as their shifts differ
  }
};

// A row of scores over their unit that becomes weights in place; N goes to negatives if it is kept.
struct Row {
  float *weights, *negatives;
  const uint8_t* seen;  // by column; null: all
  int64_t step, low, high;
  float unit;
};

template <bool MASKED, bool KEPT, class Map>
float weigh_columns(const Row& row, const Map& map, int64_t step) {
  float sums[LANES] = {};
  by_lanes(row.low, row.high, [&](int64_t column, int64_t lane) {
    float positive, negative;
    map(row.unit * row.weights[column], positive, negative);
    if (MASKED) {  // no product with 0: what a hidden score comes to may be anything
      const bool visible = row.seen[column * step] != 0;
      positive = visible ? positive : 0.0f;
      negative = visible ? negative : 0.0f;
    }
    row.weights[column] = positive - negative;
    if (KEPT) row.negatives[column] = negative;
    sums[lane] += positive + negative;
  });
  return total_of(sums);
}

template <bool KEPT, class Map>
float weigh_row(const Row& row, const Map& map) {  // returns the sum of P + N
  if (row.seen == nullptr) return weigh_columns<false, KEPT>(row, map, 0);
  return row.step == 1 ? weigh_columns<true, KEPT>(row, map, 1) : weigh_columns<true, KEPT>(row, map, row.step);
}

struct Sums {
  float positive, negative, difference;
};

// P takes the place of the scores, N goes to negatives.
template <bool MASKED, class Map>
Sums part_columns(const Row& row, const Map& map, float* differences, int64_t step) {
  float positives[LANES] = {}, negatives[LANES] = {}, sums[LANES] = {};
  by_lanes(row.low, row.high, [&](int64_t column, int64_t lane) {
    float positive, negative, difference;
    map(row.unit * row.weights[column], positive, negative, difference);
    if (MASKED) {
      const bool visible = row.seen[column * step] != 0;
      positive = visible ? positive : 0.0f;
      negative = visible ? negative : 0.0f;
      difference = visible ? difference : 0.0f;
    }
    positives[lane] += row.weights[column] = positive;
    negatives[lane] += row.negatives[column] = negative;
    sums[lane] += differences[column] = difference;
  });
  return {total_of(positives), total_of(negatives), total_of(sums)};
}

template <class Map>
Sums part_row(const Row& row, const Map& map, float* differences) {
  if (row.seen == nullptr) return part_columns<false>(row, map, differences, 0);
  return row.step == 1 ? part_columns<true>(row, map, differences, 1) : part_columns<true>(row, map, differences, row.step);
}

struct Extremes {
  float highest, lowest;
};

// Of the scores of a row over its visible keys; without such keys -inf and inf.
template <bool MASKED>
Extremes extremes_of(const Row& row, int64_t step) {
  float highest[LANES], lowest[LANES];
  for (int64_t lane = 0; lane < LANES; ++lane) highest[lane] = -INFINITY, lowest[lane] = INFINITY;
  by_lanes(row.low, row.high, [&](int64_t column, int64_t lane) {
    const float x = row.unit * row.weights[column];
    const bool visible = !MASKED || row.seen[column * step] != 0;
    const float high = visible ? x : -INFINITY, low = visible ? x : INFINITY;
    highest[lane] = high > highest[lane] ? high : highest[lane];
    lowest[lane] = low < lowest[lane] ? low : lowest[lane];
  });
  for (int64_t lane = 1; lane < LANES; ++lane) {
    highest[0] = std::fmax(highest[0], highest[lane]);
    lowest[0] = std::fmin(lowest[0], lowest[lane]);
  }
  return {highest[0], lowest[0]};
}

Extremes extremes_of(const Row& row) {
  if (row.seen == nullptr) return extremes_of<false>(row, 0);
  return row.step == 1 ? extremes_of<true>(row, 1) : extremes_of<true>(row, row.step);
}

}  // namespace
