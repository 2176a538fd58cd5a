
// The map of one row of scores to weights, and of both halves of it. numbers.h stands in front of this.

namespace {

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
