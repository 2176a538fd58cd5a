
// Tiles of queries times keys, forward and backward; rows.h, products.h and half.h stand in front of this. Products is Exact or Half.

namespace {

template <class Products>
Tile tile_at(const Call& call, int64_t entry, int64_t head, int64_t first) {
  Tile tile{entry, head, head / (call.heads / call.kv_heads), first, least(call.rows, call.queries - first), call.keys, 0};
  int64_t high = 0;
  for (int64_t row = first; row < first + tile.rows; ++row) {
    if (call.low[row] >= call.high[row]) continue;
    tile.low = least(tile.low, call.low[row]);
    high = most(high, call.high[row]);
  }
  tile.low -= tile.low % Products::WHOLE;
  tile.columns = high <= tile.low ? 0 : (high - tile.low + Products::WHOLE - 1) / Products::WHOLE * Products::WHOLE;
  return tile;
}

template <bool KEPT>
float weigh(const Row& row, bool plain, float polarity, float log_polarity, float& shift) {
  if (plain) return weigh_row<KEPT>(row, Plain{polarity});
  const Extremes scores = extremes_of(row);
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
  const int64_t low = least(most(call.low[query] - tile.low, 0), tile.columns), high = most(low, call.high[query] - tile.low);
  const uint8_t* seen = nullptr;
  if (call.keep != nullptr) {
    seen = call.keep + tile.entry * call.keep_steps[0] + tile.head * call.keep_steps[1] + query * call.keep_steps[2];
    seen += tile.low * call.keep_steps[3];
  }
  float* const second = negatives == nullptr ? nullptr : negatives + start;
  return {weights + start, second, seen, call.keep_steps[3], low, least(high, tile.columns), unit};
}

// Writes the scores of a tile; says whether they need no shift, where they are times log2(e), and what they are to be multiplied by.
template <class Products>
bool write_scores(const Products& own, float* scores, float& unit) {
  const bool plain = own.call.plain[key_head_at(own.call, own.tile)];
  unit = own.score(static_cast<float>(plain ? own.call.scale * 1.44269504088896341 : own.call.scale), scores);
  return plain;
}

int64_t polarity_at(const Call& call, const Tile& tile, int64_t place) {
  return tile.head * call.polarity_steps[0] + (tile.first + place) * call.polarity_steps[1];
}

// Scores of a tile as weights without their denominator; totals: the denominators. shifts may be null.
template <bool KEPT, class Products>
void weigh_tile(const Products& own, float* weights, float* negatives, float* totals, float* shifts) {
  const Tile& tile = own.tile;
  float unit;
  const bool plain = write_scores(own, weights, unit);
  for (int64_t place = 0; place < tile.rows; ++place) {
    const Row row = row_of(own, place, weights, negatives, unit);
    float shift = 0.0f;
    const int64_t at = polarity_at(own.call, tile, place);
    totals[place] = weigh<KEPT>(row, plain, own.call.polarity[at], own.call.log_polarity[at], shift);
    if (shifts != nullptr) shifts[place] = shift;
    clear_outside(row, row.weights, tile.columns);
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

Shares shares_at(const Call& call, const Tile& tile, int64_t place) {
  const float log_polarity = call.log_polarity[polarity_at(call, tile, place)];
  return {1.0f / (1.0f + std::exp(log_polarity)), 1.0f / (1.0f + std::exp(-log_polarity))};
}

// Scores of a tile as balanced weights, which are written to weights. With KEPT, P takes the place of the scores, and negatives is a tile
// for N; else the weights do, and negatives has two rows for what is on the way.
template <bool KEPT, class Products>
void balance_tile(const Products& own, float* scores, float* negatives, float* weights) {
  const Tile& tile = own.tile;
  float unit;
  const bool plain = write_scores(own, scores, unit);
  for (int64_t place = 0; place < tile.rows; ++place) {
    Row row = row_of(own, place, scores, negatives, unit);
    if (!KEPT) row.negatives = negatives;
    float *const joint = weights + place * own.step, *const differences = KEPT ? joint : negatives + tile.columns;
    const Shares shares = shares_at(own.call, tile, place);
    Sums sums;
    Joint factors;
    if (plain) {
      sums = part_row(row, PlainApart{}, differences);
      factors = joint_plain(sums, shares);
    } else {
      const Extremes found = extremes_of(row);
      sums = part_row(row, ShiftedApart{found.highest, found.lowest}, differences);
      factors = {shares.positive * inverse_of(sums.positive), -shares.negative * inverse_of(sums.negative), 0.0f};
    }
    const float positive = inverse_of(sums.positive), negative = inverse_of(sums.negative);
    for (int64_t column = row.low; column < row.high; ++column) {
      const float p = row.weights[column], n = row.negatives[column];
      if (KEPT) row.weights[column] = p * positive, row.negatives[column] = n * negative;
      joint[column] = factors.positive * p + factors.negative * n + factors.difference * differences[column];
    }
    clear_outside(row, joint, tile.columns);
  }
}

// scratch: spare rows of numbers, then tiles, then what the products need.
template <class Products>
void forward_tile(const Call& call, const Tile& tile, float* scratch) {
  float *const totals = scratch, *const weights = totals + call.rows + (call.balanced ? 2 * tile.columns : 0);
  const Products own(call, tile, weights + call.tile_size);
  if (call.balanced) {
    balance_tile<false>(own, weights, totals + call.rows, weights);
    return own.weigh_values(weights, nullptr);
  }
  float* const lse = call.lse + query_at(call, tile);
  weigh_tile<false>(own, weights, nullptr, totals, lse);
  for (int64_t place = 0; place < tile.rows; ++place) {
    lse[place] = totals[place] == 0.0f ? INFINITY : std::log(totals[place]) + lse[place];
    totals[place] = inverse_of(totals[place]);
  }
  own.weigh_values(weights, totals);
}

// grads: dO V^T times factor; becomes the gradient of the scores. inverse: of the denominator, as is factor, unless it is in grads already.
// Returns the sum of N (dP + D) over the denominator.
float score_gradient(const Row& row, float* grads, float factor, float inverse, bool summed) {
  float products[LANES] = {}, parts[LANES] = {};
  by_lanes(row.low, row.high, [&](int64_t column, int64_t lane) { products[lane] += grads[column] * row.weights[column]; });
  const float delta = total_of(products) * factor * inverse;
  if (summed)
    by_lanes(row.low, row.high, [&](int64_t column, int64_t lane) { parts[lane] += row.negatives[column] * (factor * grads[column] + delta); });
  for (int64_t column = row.low; column < row.high; ++column) {
    const float grad = factor * grads[column];
    grads[column] = row.weights[column] * (grad - delta) + 2.0f * row.negatives[column] * grad;
  }
  return total_of(parts);
}

// row: P and N; grads: dO V^T, becomes the gradient of the scores. Returns the sum of (P + N) dP.
float balanced_gradient(const Row& row, float* grads, Shares shares) {
  float positives[LANES] = {}, negatives[LANES] = {};
  by_lanes(row.low, row.high, [&](int64_t column, int64_t lane) {
    positives[lane] += grads[column] * row.weights[column];
    negatives[lane] += grads[column] * row.negatives[column];
  });
  const float positive = total_of(positives), negative = total_of(negatives);
  for (int64_t column = row.low; column < row.high; ++column)
    grads[column] = shares.positive * row.weights[column] * (grads[column] - positive) +
                    shares.negative * row.negatives[column] * (grads[column] - negative);
  return positive + negative;
}

template <class Products>
void backward_tile(const Call& call, const Tile& tile, float* scratch) {
  float *const inverses = scratch, *const weights = inverses + call.rows, *const negatives = weights + call.tile_size;
  float* const grads = negatives + call.tile_size;
  const Products own(call, tile, grads + call.tile_size);
  bool later = false;
  if (call.balanced) {
    balance_tile<true>(own, weights, negatives, grads);
    own.back_through_values(grads, nullptr, grads);
  } else {
    weigh_tile<true>(own, weights, negatives, inverses, nullptr);
    for (int64_t place = 0; place < tile.rows; ++place) inverses[place] = inverse_of(inverses[place]);
    later = own.back_through_values(weights, inverses, grads);
  }
  const bool summed = call.grad_polarity != nullptr;
  float* const sums = summed ? call.grad_polarity + query_at(call, tile) : nullptr;
  for (int64_t place = 0; place < tile.rows; ++place) {
    const Row row = row_of(own, place, weights, negatives);
    float* const found = grads + place * own.step;
    float sum;
    if (call.balanced) {
      const Shares shares = shares_at(call, tile, place);
      sum = shares.positive * shares.positive * balanced_gradient(row, found, shares);
    } else {
      sum = score_gradient(row, found, later ? inverses[place] : 1.0f, inverses[place], summed);
    }
    if (summed) sums[place] = -sum;
    clear_outside(row, found, tile.columns);
  }
  own.back_to_inputs(grads);
}

template <class Products>
void forward(const Call& call) {
  const int64_t blocks = (call.queries + call.rows - 1) / call.rows, units = call.batch * call.heads * blocks;
#pragma omp parallel num_threads(call.threads) if (units > 1 && units * call.share > ALONE)
  {
    Products::begin(call, false);
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < units; ++unit) {
      const Tile tile = tile_at<Products>(call, unit / blocks / call.heads, unit / blocks % call.heads, unit % blocks * call.rows);
      if (tile.columns > 0) forward_tile<Products>(call, tile, call.scratch + omp_get_thread_num() * call.share);
    }
    Products::end();
  }
}

template <class Products>
void backward(const Call& call) {
  const int64_t units = call.batch * call.kv_heads, groups = call.heads / call.kv_heads;
#pragma omp parallel num_threads(call.threads) if (units > 1 && units * call.share > ALONE)
  {
    Products::begin(call, true);
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < units; ++unit)
      for (int64_t head = unit % call.kv_heads * groups; head < (unit % call.kv_heads + 1) * groups; ++head)
        for (int64_t first = 0; first < call.queries; first += call.rows) {
          const Tile tile = tile_at<Products>(call, unit / call.kv_heads, head, first);
          if (tile.columns > 0) backward_tile<Products>(call, tile, call.scratch + omp_get_thread_num() * call.share);
        }
    Products::end();
  }
}

}  // namespace

extern "C" {

void hf_tanhmax_forward(const Call* call) { call->half ? forward<Half>(*call) : forward<Exact>(*call); }

void hf_tanhmax_backward(const Call* call) { call->half ? backward<Half>(*call) : backward<Exact>(*call); }

// Whether products of bfloat16 numbers are computed here faster than in float32.
int hf_tanhmax_half() { return half_works(); }

}  // extern "C"
