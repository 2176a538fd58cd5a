
// What a call does to rows besides: a softcap and a bias of the scores, an additive mask, and dropout of the weights. products.h stands in
// front of this.

namespace {

constexpr float HIDDEN_BELOW = -9000.0f;  // `functional.py` says so too
constexpr float FADED_LIMIT = 30.0f;      // as PLAIN_LIMIT, with an additive mask

struct Capped {
  float value, slope;
};

inline Capped hyperbolic(float u) {  // tanh u and its derivative
  const float below = u > 20.0f ? 20.0f : u, bounded = below < -20.0f ? -20.0f : below;
  const Apart<float> found = PlainApart{}(bounded * LOG2_OF_E);
  const float inverse = 1.0f / (found.positive + found.negative);
  return {found.difference * inverse, 4.0f * inverse * inverse};
}

inline bool is_shaped(const Call& call) { return call.softcap > 0.0 || call.bias != nullptr; }

// Scores become what they are with softcap and bias, over no unit; slopes, if not null: of the softcap, by column.
void shape_row(const Row& row, float cap, const float* bias, int64_t bias_step, float* slopes) {
  float unit = row.unit;
  if (cap > 0.0f) {
    for (int64_t column = row.low; column < row.high; ++column) {
      const Capped found = hyperbolic(unit * row.weights[column] / cap);
      row.weights[column] = cap * found.value;
      if (slopes != nullptr) slopes[column] = found.slope;
    }
    unit = 1.0f;
  }
  if (bias == nullptr || bias_step == 0) {
    const float all = bias == nullptr ? 0.0f : *bias;
    for (int64_t column = row.low; column < row.high; ++column) row.weights[column] = unit * row.weights[column] + all;
  } else {
    for (int64_t column = row.low; column < row.high; ++column) row.weights[column] = unit * row.weights[column] + bias[column];
  }
}

template <Hidden HIDDEN>
float mask_levels(const Row row, const float* mask, int64_t mask_step, float* levels) {
  const Lanes none = Lanes{} - INFINITY;
  Lanes highest = none;
  by_lanes(row.low, row.high, [&, row](int64_t column, auto count) {
    const Lanes given = mask_step == 0 ? Lanes{} + *mask : load(mask + column, count);
    Lanes found = given > HIDDEN_BELOW ? given : none;
    if constexpr (some_hidden<HIDDEN, decltype(count)>) found = visible_at<HIDDEN>(row, column, count) != 0 ? found : none;
    store(found, levels + column, count);
    highest = found > highest ? found : highest;
  });
  const float all = highest_of(highest);
  return all == -INFINITY ? 0.0f : all;
}

// Gives a row its levels: an additive mask less its highest number over the visible keys, which is returned; -inf where a key is hidden.
float level_row(Row& row, const float* mask, int64_t mask_step, bool plain, float* levels) {
  const float highest =
      by_hidden(row, [&](auto hidden) { return mask_levels<decltype(hidden)::value>(row, mask, mask_step, levels); });
  for (int64_t column = row.low; column < row.high; ++column) {
    const float level = levels[column] - highest;
    levels[column] = plain ? exponential(level) : level;
  }
  row.levels = levels;
  return highest;
}

// A row of memory besides the tiles, and a tile for the slopes of the softcap, or null.
struct Spare {
  float *levels, *slopes;
};

// Softcap, bias and additive mask of a row of scores; returns what its levels are less by.
template <class Products>
float prepare_row(const Products& own, int64_t place, bool plain, const Spare& spare, Row& row) {
  const Call& call = own.call;
  if (is_shaped(call)) {
    const float* const bias = call.bias == nullptr ? nullptr : added_at(call.bias, call.bias_steps, own.tile, place);
    shape_row(row, static_cast<float>(call.softcap), bias, call.bias_steps[3],
              spare.slopes == nullptr ? nullptr : spare.slopes + place * own.step);
    row.unit = plain ? LOG2_OF_E : 1.0f;
  }
  if (call.additive == nullptr) return 0.0f;
  return level_row(row, added_at(call.additive, call.additive_steps, own.tile, place), call.additive_steps[3], plain, spare.levels);
}

inline uint64_t mixed(uint64_t bits) {
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
  return bits ^ bits >> 31;
}

// Drops weights of a row, and divides the others by the share that is kept. Which ones, seed, row and key say alone: `problem.py` has the
// same rule. number: of the row in the call; first: the key of the first column. to may be from.
void drop_row(const Call& call, int64_t number, int64_t first, int64_t columns, const float* from, float* to) {
  const uint64_t own = mixed(static_cast<uint64_t>(call.seed) + static_cast<uint64_t>(number + 1) * 0x9e3779b97f4a7c15u);
  const uint32_t low = static_cast<uint32_t>(own), high = static_cast<uint32_t>(own >> 32), dropped = static_cast<uint32_t>(call.dropped);
  const float kept = static_cast<float>(1.0 / (1.0 - call.dropped * 0x1p-32));
  for (int64_t column = 0; column < columns; ++column) {
    uint32_t bits = low + static_cast<uint32_t>(first + column) * 0x9e3779b9u;
    bits = ((bits ^ bits >> 16) * 0x7feb352du) ^ high;
    bits = (bits ^ bits >> 15) * 0x846ca68bu;
    bits ^= bits >> 16;
    to[column] = bits >= dropped ? kept * from[column] : 0.0f;
  }
}

template <class Products>
void drop_row(const Products& own, int64_t place, const float* from, float* to) {
  drop_row(own.call, query_at(own.call, own.tile) + place, own.tile.low, own.tile.columns, from, to);
}

// Adds a row of gradients to its place in that of a bias or an additive mask.
void add_row(float* gradient, const int64_t* steps, const Tile& tile, int64_t place, const Row& row, const float* from) {
  float* const to = const_cast<float*>(added_at(gradient, steps, tile, place));
  if (steps[3] != 0) {
    for (int64_t column = row.low; column < row.high; ++column) to[column] += from[column];
    return;
  }
  *to += sum_of(row.low, row.high, [=](int64_t column, auto count) { return load(from + column, count); });
}

}  // namespace
