
// The map of one row of scores to weights, and of both halves of it. numbers.h stands in front of this.

namespace {

// What scores become: P - N, P + N and N.
template <class Float>
struct Weighed {
  Float difference, sum, negative;
};

// The map of one row: of a score, and with its level m all times e^m: for rows without a shift the level is e^m itself.
struct Plain {
  float polarity;
  // x: times log2(e), |x| < 126. Where n is 0 the difference is formed before both are rounded, which keeps its digits; elsewhere after, so
  // that difference and sum are of the same two numbers.
  template <class Float>
  inline Weighed<Float> operator()(Float x) const {
    const Nearest<Float> n = nearest(x);
    const Powers<Float> powers = powers_of_two<Float>(x - n.whole, n.exponent);
    const Float down = polarity * powers.down;
    const Float positive = powers.up * (powers.even + powers.odd), negative = down * (powers.even - powers.odd);
    const Float near = (powers.up - down) * powers.even + (powers.up + down) * powers.odd;
    return {n.whole == 0.0f ? near : positive - negative, positive + negative, negative};
  }
  template <class Float>
  inline Weighed<Float> operator()(Float x, Float level) const {
    const Weighed<Float> found = (*this)(x);
    return {level * found.difference, level * found.sum, level * found.negative};
  }
};

// As Plain, for weights that are rounded to bfloat16: fewer operations, and relative errors of 9e-8 (even) and 1.5e-5.
struct PlainShort {
  float polarity;
  template <class Float>
  inline Weighed<Float> operator()(Float x) const {
    const Nearest<Float> n = nearest(x);
    const Float f = x - n.whole, g = f * f;
    const Float even = 1.0f + g * (0.240222395058f + g * 0.00967163967426f), odd = f * (0.693136822488f + g * 0.0558375745987f);
    const Float up = power_of_two(n.exponent), down = polarity * power_of_two(0u - n.exponent);
    const Float larger = up + down, smaller = up - down;
    return {smaller * even + larger * odd, larger * even + smaller * odd, down * (even - odd)};
  }
  template <class Float>
  inline Weighed<Float> operator()(Float x, Float level) const {
    const Weighed<Float> found = (*this)(x);
    return {level * found.difference, level * found.sum, level * found.negative};
  }
};

struct Shifted {
  float highest, log_polarity;
  template <class Float>
  static inline Weighed<Float> joined(Float positive, Float negative) {
    return {positive - negative, positive + negative, negative};
  }
  template <class Float>
  inline Weighed<Float> operator()(Float x) const {
    return joined<Float>(exponential<Float>(x - highest), exponential<Float>((log_polarity - highest) - x));
  }
  template <class Float>
  inline Weighed<Float> operator()(Float x, Float level) const {
    return joined<Float>(exponential<Float>((x - highest) + level), exponential<Float>(((log_polarity - highest) - x) + level));
  }
};

template <class Float>
struct Apart {
  Float positive, negative, difference;
};

// With a balanced shift P and N have denominators of their own, which cancel in what is small; so P - N is formed before, and exact where
// 2^n is 1.
struct PlainApart {
  template <class Float>
  inline Apart<Float> operator()(Float x) const {
    const Nearest<Float> n = nearest(x);
    const Powers<Float> powers = powers_of_two<Float>(x - n.whole, n.exponent);
    return {powers.up * (powers.even + powers.odd), powers.down * (powers.even - powers.odd),
            (powers.up - powers.down) * powers.even + (powers.up + powers.down) * powers.odd};
  }
  template <class Float>
  inline Apart<Float> operator()(Float x, Float level) const {
    const Apart<Float> found = (*this)(x);
    return {level * found.positive, level * found.negative, level * found.difference};
  }
};

struct ShiftedApart {
  float highest, lowest;
  template <class Float>
  inline Apart<Float> operator()(Float x) const {
    return {exponential<Float>(x - highest), exponential<Float>(lowest - x), Float{}};  // no difference, as their shifts differ
  }
  template <class Float>
  inline Apart<Float> operator()(Float x, Float level) const {
    return {exponential<Float>((x - highest) + level), exponential<Float>((lowest - x) + level), Float{}};
  }
};

// A row of scores over their unit that becomes weights in place; N goes to negatives if it is kept.
struct Row {
  float *weights, *negatives;
  const uint8_t* seen;  // by column; null: all
  int64_t low, high;
  float unit;
  const float* levels;  // by column; null: none; where there are some, they say what is hidden too: -inf, or 0 without a shift
};

enum Hidden { NONE, MASKED, FADED };  // which keys of a row are: as `seen` says, or as levels say

// Runs run(constant of Hidden) as the row has them.
template <class Run>
auto by_hidden(const Row& row, const Run& run) {
  if (row.levels != nullptr) return run(std::integral_constant<Hidden, FADED>());
  if (row.seen == nullptr) return run(std::integral_constant<Hidden, NONE>());
  return run(std::integral_constant<Hidden, MASKED>());
}

__attribute__((noinline)) LaneBits visible_some(const uint8_t* seen, int64_t count) {  // seen may be null
  EachBits found;
  for (int64_t lane = 0; lane < LANES; ++lane) found.lanes[lane] = lane < count && (seen == nullptr || seen[lane] != 0) ? ~0u : 0u;
  return as<LaneBits>(found);
}

// A bit mask of the lanes with a visible key, from `count` on none; a product with 0 would not do, as what a hidden score comes to may be
// anything.
template <Hidden HIDDEN, class Count>
inline LaneBits visible_at(const Row& row, int64_t column, Count count) {
  if constexpr (HIDDEN == MASKED && std::is_same<Count, Whole>::value) {
    EachBits found;
    for (int64_t lane = 0; lane < LANES; ++lane) found.lanes[lane] = 0u - static_cast<uint32_t>(row.seen[column + lane] != 0);
    return as<LaneBits>(found);
  } else {
    return visible_some(HIDDEN == MASKED ? row.seen + column : nullptr, count);
  }
}

inline Lanes only(Lanes numbers, LaneBits visible) { return float_of(bits_of(numbers) & visible); }

// The map of some scores of a row, and whether any of them may be hidden.
template <Hidden HIDDEN, class Map, class Count>
inline auto mapped(const Row& row, const Map& map, int64_t column, Count count) {
  const Lanes scores = row.unit * load(row.weights + column, count);
  if constexpr (HIDDEN == FADED)
    return map(scores, load(row.levels + column, count));
  else
    return map(scores);
}

template <Hidden HIDDEN, class Count>
constexpr bool some_hidden = HIDDEN == MASKED || !std::is_same<Count, Whole>::value;

// Rows are passed as they are, so that a compiler sees that no number which is written is part of one.
template <Hidden HIDDEN, bool KEPT, class Map>
float weigh_columns(const Row row, const Map map) {
  return sum_of(row.low, row.high, [=](int64_t column, auto count) {
    Weighed<Lanes> found = mapped<HIDDEN>(row, map, column, count);
    if constexpr (some_hidden<HIDDEN, decltype(count)>) {
      const LaneBits visible = visible_at<HIDDEN>(row, column, count);
      found = {only(found.difference, visible), only(found.sum, visible), only(found.negative, visible)};
    }
    store(found.difference, row.weights + column, count);
    if (KEPT) store(found.negative, row.negatives + column, count);
    return found.sum;
  });
}

template <bool KEPT, class Map>
float weigh_row(const Row& row, const Map& map) {  // returns the sum of P + N
  return by_hidden(row, [&](auto hidden) { return weigh_columns<decltype(hidden)::value, KEPT>(row, map); });
}

struct Sums {
  float positive, negative, difference;
};

// P takes the place of the scores, N goes to negatives.
template <Hidden HIDDEN, class Map>
Sums part_columns(const Row row, const Map map, float* differences) {
  Apart<Lanes> sums = {};
  by_lanes(row.low, row.high, [&, row, map](int64_t column, auto count) {
    Apart<Lanes> found = mapped<HIDDEN>(row, map, column, count);
    if constexpr (some_hidden<HIDDEN, decltype(count)>) {
      const LaneBits visible = visible_at<HIDDEN>(row, column, count);
      found = {only(found.positive, visible), only(found.negative, visible), only(found.difference, visible)};
    }
    store(found.positive, row.weights + column, count);
    store(found.negative, row.negatives + column, count);
    store(found.difference, differences + column, count);
    sums.positive += found.positive, sums.negative += found.negative, sums.difference += found.difference;
  });
  return {total_of(sums.positive), total_of(sums.negative), total_of(sums.difference)};
}

template <class Map>
Sums part_row(const Row& row, const Map& map, float* differences) {
  return by_hidden(row, [&](auto hidden) { return part_columns<decltype(hidden)::value>(row, map, differences); });
}

struct Extremes {
  float highest, lowest;
};

// Of the scores of a row over its visible keys; without such keys -inf and inf. With levels, of score plus and minus level.
template <Hidden HIDDEN>
Extremes extremes_of(const Row row) {
  const Lanes none = Lanes{} - INFINITY;
  Lanes highest = none, lowest = -none;
  by_lanes(row.low, row.high, [&, row](int64_t column, auto count) {
    const Lanes x = row.unit * load(row.weights + column, count);
    Lanes high = x, low = x;
    if constexpr (HIDDEN == FADED) {
      const Lanes levels = load(row.levels + column, count);
      high = x + levels, low = x - levels;
    }
    if constexpr (some_hidden<HIDDEN, decltype(count)>) {
      const auto visible = visible_at<HIDDEN>(row, column, count) != 0;
      high = visible ? high : none, low = visible ? low : -none;
    }
    highest = high > highest ? high : highest;
    lowest = low < lowest ? low : lowest;
  });
  return {highest_of(highest), -highest_of(-lowest)};
}

Extremes extremes_of(const Row& row) {
  return by_hidden(row, [&](auto hidden) { return extremes_of<decltype(hidden)::value>(row); });
}

}  // namespace
