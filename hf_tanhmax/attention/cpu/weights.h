
// From the scores of a tile of queries times keys to weights. added.h stands in front of this; Products is Exact or Half.

namespace {

template <class Products>
Tile tile_at(const Call& call, int64_t entry, int64_t head, int64_t first) {
  Tile tile{entry, head, head / (call.heads / call.kv_heads), first, least(call.rows, call.queries - first), call.keys, 0};
  int64_t high = 0;
  for (int64_t query = first; query < first + tile.rows; ++query) {
    const Range range = range_of(call, query);
    if (range.low >= range.high) continue;
    tile.low = least(tile.low, range.low);
    high = most(high, range.high);
  }
  tile.low -= tile.low % Products::WHOLE;
  tile.columns = high <= tile.low ? 0 : (high - tile.low + Products::WHOLE - 1) / Products::WHOLE * Products::WHOLE;
  return tile;
}

// scores: its extremes, which only a row that is not plain needs; Map: of a plain row.
template <bool KEPT, class Map>
float weigh(const Row& row, const Extremes& scores, bool plain, float log_polarity, float& shift) {
  if (plain) return weigh_row<KEPT>(row, Map{log_polarity == 0.0f ? 1.0f : std::exp(log_polarity)});
  const float found = std::fmax(scores.highest, log_polarity - scores.lowest);
  shift = found == -INFINITY ? 0.0f : found;
  return weigh_row<KEPT>(row, Shifted{shift, log_polarity});
}

void clear_outside(const Row& row, float* values, int64_t columns) {
  for (int64_t column = 0; column < row.low; ++column) values[column] = 0.0f;
  for (int64_t column = row.high; column < columns; ++column) values[column] = 0.0f;
}

template <class Products>
Row row_of(const Products& own, int64_t place, float* weights, float* negatives, float unit = 1.0f) {
  const Call& call = own.call;
  const Tile& tile = own.tile;
  const int64_t query = tile.first + place, start = place * own.step;
  const Range range = range_of(call, query);
  const int64_t low = least(most(range.low - tile.low, 0), tile.columns), high = most(low, range.high - tile.low);
  const uint8_t* seen = nullptr;
  if (call.keep != nullptr) {
    seen = call.keep + tile.entry * call.keep_steps[0] + tile.head * call.keep_steps[1] + query * call.keep_steps[2];
    seen += tile.low;
  }
  float* const second = negatives == nullptr ? nullptr : negatives + start;
  return {weights + start, second, seen, low, least(high, tile.columns), unit, nullptr};
}

// Writes the scores of a tile; says whether they need no shift, where they are times log2(e) unless they are shaped first, and what they
// are to be multiplied by.
template <class Products>
bool write_scores(const Products& own, float* scores, float& unit) {
  const bool plain = own.call.plain[key_head_at(own.call, own.tile)];
  const double scale = own.call.scale;
  unit = own.score(static_cast<float>(plain && !is_shaped(own.call) ? scale * 1.44269504088896341 : scale), scores);
  return plain;
}

// What is done with a row of weights once it is known, in the forward pass.
template <class Products>
void finish_row(const Products& own, int64_t place, float* weights) {
  float* const row = weights + place * own.step;
  if (own.call.dropped > 0) drop_row(own, place, row, row);
  own.finish(place, weights);
}

float log_polarity_at(const Call& call, const Tile& tile, int64_t place) {
  if (call.log_polarity == nullptr) return call.is_signed ? 0.0f : -INFINITY;
  return call.log_polarity[tile.head * call.log_polarity_steps[0] + (tile.first + place) * call.log_polarity_steps[1]];
}

// Scores of a tile as weights without their denominator, some dropped unless KEPT; totals: the denominators.
template <bool KEPT, class Products>
void weigh_tile(const Products& own, const Spare& spare, float* weights, float* negatives, float* totals, float* shifts) {
  const Tile& tile = own.tile;
  typedef typename std::conditional<Products::ROUNDS && !KEPT, PlainShort, Plain>::type Map;
  float unit;
  const bool plain = write_scores(own, weights, unit);
  for (int64_t place = 0; place < tile.rows; ++place) {
    Row row = row_of(own, place, weights, negatives, unit);
    const float level = prepare_row(own, place, plain, spare, row);
    float shift = 0.0f;
    const Extremes found = plain ? Extremes{} : extremes_of(row);
    totals[place] = weigh<KEPT, Map>(row, found, plain, log_polarity_at(own.call, tile, place), shift);
    shifts[place] = shift + level;
    clear_outside(row, row.weights, tile.columns);
    if (!KEPT) finish_row(own, place, weights);
  }
}

// With a balanced shift, the weights are positive P - negative N, each of P and N over its own denominator.
struct Shares {
  float positive, negative;  // 1 / (1 + p) and p / (1 + p)
};

float inverse_of(float total) { return total == 0.0f ? 0.0f : 1.0f / total; }

struct Joint {
  float positive, negative, difference;  // what P, N and P - N, without denominators, are multiplied by in a weight
};

// s+ P - s- N = (s+ - s-) P + s- (P - N), and with the difference d of both without denominators and its sum D,
// P - N = (d - N D) / S+ = (d - P D) / S-: the larger of the two sums S loses no digits.
Joint joint_plain(Sums sums, Shares shares) {
  const bool up = sums.difference >= 0.0f;
  const float larger = inverse_of(up ? sums.positive : sums.negative), smaller = inverse_of(up ? sums.negative : sums.positive);
  const float common = -shares.negative * (sums.difference * larger) * smaller;
  const float rest = (shares.positive - shares.negative) * inverse_of(sums.positive);
  return {up ? rest : rest + common, up ? common : 0.0f, shares.negative * larger};
}

Shares shares_of(float log_polarity) {
  if (log_polarity == 0.0f) return {0.5f, 0.5f};
  return {1.0f / (1.0f + std::exp(log_polarity)), 1.0f / (1.0f + std::exp(-log_polarity))};
}

// A row of scores as balanced weights, which are written to joint; differences: numbers on the way, which may be there too if KEPT.
template <bool KEPT>
void balance_row(const Row row, const Extremes& found, bool plain, const Shares& shares, float* joint, float* differences) {
  Sums sums;
  Joint factors;
  if (plain) {
    sums = part_row(row, PlainApart{}, differences);
    factors = joint_plain(sums, shares);
  } else {
    const bool any = found.highest != -INFINITY;  // visible key
    sums = part_row(row, ShiftedApart{any ? found.highest : 0.0f, any ? found.lowest : 0.0f}, differences);
    factors = {shares.positive * inverse_of(sums.positive), -shares.negative * inverse_of(sums.negative), 0.0f};
  }
  const float positive = inverse_of(sums.positive), negative = inverse_of(sums.negative);
  by_lanes(row.low, row.high, [=](int64_t column, auto count) {
    const Lanes p = load(row.weights + column, count), n = load(row.negatives + column, count);
    const Lanes found = factors.positive * p + factors.negative * n + factors.difference * load(differences + column, count);
    if (KEPT) store(p * positive, row.weights + column, count), store(n * negative, row.negatives + column, count);
    store(found, joint + column, count);
  });
}

// Scores of a tile as balanced weights, which are written to weights. With KEPT, P takes the place of the scores, and negatives is a tile
// for N; else the weights do, and negatives has two rows for what is on the way.
template <bool KEPT, class Products>
void balance_tile(const Products& own, const Spare& spare, float* scores, float* negatives, float* weights) {
  const Tile& tile = own.tile;
  float unit;
  const bool plain = write_scores(own, scores, unit);
  for (int64_t place = 0; place < tile.rows; ++place) {
    Row row = row_of(own, place, scores, negatives, unit);
    if (!KEPT) row.negatives = negatives;
    prepare_row(own, place, plain, spare, row);
    const Extremes found = plain ? Extremes{} : extremes_of(row);
    float* const joint = weights + place * own.step;
    balance_row<KEPT>(row, found, plain, shares_of(log_polarity_at(own.call, tile, place)), joint, KEPT ? joint : negatives + tile.columns);
    clear_outside(row, joint, tile.columns);
    if (!KEPT) finish_row(own, place, weights);
  }
}

}  // namespace
