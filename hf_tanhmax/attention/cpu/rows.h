
// The map of one row of scores to weights, and of both halves of it. numbers.h stands in front of this.

namespace {

// What a score becomes: P - N, P + N and N.
struct Weighed {
  float difference, sum, negative;
};

// The map of one row: of a score, and with its level m all times e^m: for rows without a shift the level is e^m itself.
struct Plain {
  float polarity;
  // x: times log2(e), |x| < 126. Where n is 0 the difference is formed before both are rounded, which keeps its digits; elsewhere after, so
  // that difference and sum are of the same two numbers.
  inline Weighed operator()(float x) const {
    const float n = nearest(x);
    const Split parts = split(x - n, n);
    const float positive = power_of_two(parts.whole) * (parts.even + parts.odd);
    const float negative = polarity * (power_of_two(-parts.whole) * (parts.even - parts.odd));
    const float near = (1.0f - polarity) * parts.even + (1.0f + polarity) * parts.odd;
    return {n == 0.0f ? near : positive - negative, positive + negative, negative};
  }
  inline Weighed operator()(float x, float level) const {
    const Weighed found = (*this)(x);
    return {level * found.difference, level * found.sum, level * found.negative};
  }
};

struct Shifted {
  float highest, log_polarity;
  static inline Weighed joined(float positive, float negative) { return {positive - negative, positive + negative, negative}; }
  inline Weighed operator()(float x) const { return joined(exponential(x - highest), exponential((log_polarity - highest) - x)); }
  inline Weighed operator()(float x, float level) const {
    return joined(exponential((x - highest) + level), exponential(((log_polarity - highest) - x) + level));
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
  inline void operator()(float x, float level, float& positive, float& negative, float& difference) const {
    (*this)(x, positive, negative, difference);
    positive *= level;
    negative *= level;
    difference *= level;
  }
};

struct ShiftedApart {
  float highest, lowest;
  inline void operator()(float x, float& positive, float& negative, float& difference) const {
    positive = exponential(x - highest);
    negative = exponential(lowest - x);
    difference = 0.0f;  // as their shifts differ
  }
  inline void operator()(float x, float level, float& positive, float& negative, float& difference) const {
    positive = exponential((x - highest) + level);
    negative = exponential((lowest - x) + level);
    difference = 0.0f;
  }
};

// A row of scores over their unit that becomes weights in place; N goes to negatives if it is kept.
struct Row {
  float *weights, *negatives;
  const uint8_t* seen;  // by column; null: all
  int64_t step, low, high;
  float unit;
  const float* levels;  // by column; null: none; where there are some, they say what is hidden too: -inf, or 0 without a shift
};

enum Hidden { NONE, MASKED, FADED };  // which keys of a row are: as `seen` says, or as levels say

// Runs run(constant of Hidden, step) as the row has them.
template <class Run>
auto by_hidden(const Row& row, const Run& run) {
  if (row.levels != nullptr) return run(std::integral_constant<Hidden, FADED>(), int64_t(0));
  if (row.seen == nullptr) return run(std::integral_constant<Hidden, NONE>(), int64_t(0));
  return row.step == 1 ? run(std::integral_constant<Hidden, MASKED>(), std::integral_constant<int64_t, 1>())
                       : run(std::integral_constant<Hidden, MASKED>(), row.step);
}

// A number where a key is visible, else 0; no product with 0, as what a hidden score comes to may be anything.
inline uint32_t all_bits(uint8_t seen) { return 0u - static_cast<uint32_t>(seen != 0); }
inline float only(float number, uint32_t visible) { return float_of(bits_of(number) & visible); }

template <Hidden HIDDEN, bool KEPT, class Map, class Step>
float weigh_columns(const Row& row, const Map& map, Step step) {
  float sums[LANES] = {};
  by_lanes(row.low, row.high, [&](int64_t column, int64_t lane) {
    Weighed found;
    if constexpr (HIDDEN == FADED)
      found = map(row.unit * row.weights[column], row.levels[column]);
    else
      found = map(row.unit * row.weights[column]);
    if (HIDDEN == MASKED) {
      const uint32_t visible = all_bits(row.seen[column * step]);
      found = {only(found.difference, visible), only(found.sum, visible), only(found.negative, visible)};
    }
    row.weights[column] = found.difference;
    if (KEPT) row.negatives[column] = found.negative;
    sums[lane] += found.sum;
  });
  return total_of(sums);
}

template <bool KEPT, class Map>
float weigh_row(const Row& row, const Map& map) {  // returns the sum of P + N
  return by_hidden(row, [&](auto hidden, auto step) { return weigh_columns<decltype(hidden)::value, KEPT>(row, map, step); });
}

struct Sums {
  float positive, negative, difference;
};

// P takes the place of the scores, N goes to negatives.
template <Hidden HIDDEN, class Map, class Step>
Sums part_columns(const Row& row, const Map& map, float* differences, Step step) {
  float positives[LANES] = {}, negatives[LANES] = {}, sums[LANES] = {};
  by_lanes(row.low, row.high, [&](int64_t column, int64_t lane) {
    float positive, negative, difference;
    if constexpr (HIDDEN == FADED)
      map(row.unit * row.weights[column], row.levels[column], positive, negative, difference);
    else
      map(row.unit * row.weights[column], positive, negative, difference);
    if (HIDDEN == MASKED) {
      const uint32_t visible = all_bits(row.seen[column * step]);
      positive = only(positive, visible);
      negative = only(negative, visible);
      difference = only(difference, visible);
    }
    positives[lane] += row.weights[column] = positive;
    negatives[lane] += row.negatives[column] = negative;
    sums[lane] += differences[column] = difference;
  });
  return {total_of(positives), total_of(negatives), total_of(sums)};
}

template <class Map>
Sums part_row(const Row& row, const Map& map, float* differences) {
  return by_hidden(row, [&](auto hidden, auto step) { return part_columns<decltype(hidden)::value>(row, map, differences, step); });
}

struct Extremes {
  float highest, lowest;
};

// Of the scores of a row over its visible keys; without such keys -inf and inf. With levels, of score plus and minus level.
template <Hidden HIDDEN, class Step>
Extremes extremes_of(const Row& row, Step step) {
  float highest[LANES], lowest[LANES];
  for (int64_t lane = 0; lane < LANES; ++lane) highest[lane] = -INFINITY, lowest[lane] = INFINITY;
  by_lanes(row.low, row.high, [&](int64_t column, int64_t lane) {
    const float x = row.unit * row.weights[column], level = HIDDEN == FADED ? row.levels[column] : 0.0f;
    const bool visible = HIDDEN != MASKED || row.seen[column * step] != 0;
    const float high = visible ? x + level : -INFINITY, low = visible ? x - level : INFINITY;
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
  return by_hidden(row, [&](auto hidden, auto step) { return extremes_of<decltype(hidden)::value>(row, step); });
}

}  // namespace
