
// Tiles of queries times keys, forward and backward; rows.h stands in front of this.

// Integers are passed as 64 bits: on the little-endian machines that this is built for, a library that wants 32 reads the lower half.
extern "C" void sgemm_(const char*, const char*, const int64_t*, const int64_t*, const int64_t*, const float*, const float*, const int64_t*,
                       const float*, const int64_t*, const float*, float*, const int64_t*);

// Tensors [batch, heads or kv_heads, length, width] of dense rows; steps: the strides of the first three dimensions.
struct Call {
  const float *query, *key, *value, *grad_output;
  const float *polarity, *log_polarity;   // by head and query: with steps, as that of queries may be 0
  const int64_t *low, *high;              // [queries]: the keys that a query may see are from low to high,
  const uint8_t *keep;                    // and of those, where keep is not null, the ones where it is 1
  const uint8_t *plain;                   // [batch, kv_heads]: whether scores need no shift
  const float *joint_lse, *joint_delta;   // null, or dense [batch, heads, queries]: L and D over more keys than these
  float *output, *lse;                    // dense [batch, heads, queries, value_width] and, if not balanced, [batch, heads, queries]
  float *grad_query, *grad_key, *grad_value;  // dense, and zero at the start
  float *grad_polarity;                   // null, or dense [batch, heads, queries], zero at the start: of log p by row; if balanced, of p
  float *scratch;                         // share numbers for each thread
  int64_t query_steps[3], key_steps[3], value_steps[3], grad_output_steps[3], keep_steps[4], polarity_steps[2];
  int64_t batch, heads, kv_heads, queries, keys, width, value_width, rows, threads, share, balanced;
  double scale;
};

namespace {

struct Tile {
  int64_t entry, head, kv_head, first, rows, low, columns;
};

Tile tile_at(const Call& call, int64_t entry, int64_t head, int64_t first) {
  Tile tile{entry, head, head / (call.heads / call.kv_heads), first, least(call.rows, call.queries - first), call.keys, 0};
  int64_t high = 0;
  for (int64_t row = first; row < first + tile.rows; ++row) {
    if (call.low[row] >= call.high[row]) continue;
    tile.low = least(tile.low, call.low[row]);
    high = most(high, call.high[row]);
  }
  tile.columns = most(0, high - tile.low);
  return tile;
}

const float* part(const float* tensor, const int64_t* steps, int64_t entry, int64_t head, int64_t place) {
  return tensor + entry * steps[0] + head * steps[1] + place * steps[2];
}

// C [m, n] = alpha A B + beta C, for rows as C has them: the library has columns where we have rows, so A and B change places.
void multiply(bool a_turned, bool b_turned, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t a_step, const float* b,
              int64_t b_step, float beta, float* c, int64_t c_step) {
  const char first = b_turned ? 'T' : 'N', second = a_turned ? 'T' : 'N';
  sgemm_(&first, &second, &n, &m, &k, &alpha, b, &b_step, a, &a_step, &beta, c, &c_step);
}

// [rows, columns] = alpha X Y^T, with rows of X by query and of Y by key.
void scores_of(const Tile& tile, int64_t width, float alpha, const float* x, int64_t x_step, const float* y, int64_t y_step, float* found) {
  multiply(false, true, tile.rows, tile.columns, width, alpha, x, most(x_step, width), y, most(y_step, width), 0.0f, found, tile.columns);
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

Row row_of(const Call& call, const Tile& tile, int64_t place, float* weights, float* negatives) {
  const int64_t query = tile.first + place, start = place * tile.columns;
  const int64_t low = least(most(call.low[query] - tile.low, 0), tile.columns), high = most(low, call.high[query] - tile.low);
  const uint8_t* seen = nullptr;
  if (call.keep != nullptr) {
    seen = call.keep + tile.entry * call.keep_steps[0] + tile.head * call.keep_steps[1] + query * call.keep_steps[2];
    seen += tile.low * call.keep_steps[3];
  }
  return {weights + start, negatives == nullptr ? nullptr : negatives + start, seen, call.keep_steps[3], low, least(high, tile.columns)};
}

// Writes the scores of a tile, and says whether they need no shift: then they are times log2(e).
bool write_scores(const Call& call, const Tile& tile, float* scores) {
  const bool plain = call.plain[tile.entry * call.kv_heads + tile.kv_head];
  const float alpha = static_cast<float>(plain ? call.scale * 1.44269504088896341 : call.scale);
  const float* query = part(call.query, call.query_steps, tile.entry, tile.head, tile.first);
  const float* key = part(call.key, call.key_steps, tile.entry, tile.kv_head, tile.low);
  scores_of(tile, call.width, alpha, query, call.query_steps[2], key, call.key_steps[2], scores);
  return plain;
}

int64_t polarity_at(const Call& call, const Tile& tile, int64_t place) {
  return tile.head * call.polarity_steps[0] + (tile.first + place) * call.polarity_steps[1];
}

// Scores of a tile as weights without their denominator; totals: the denominators. shifts may be null.
template <bool KEPT>
void weigh_tile(const Call& call, const Tile& tile, float* weights, float* negatives, float* totals, float* shifts) {
  const bool plain = write_scores(call, tile, weights);
  for (int64_t place = 0; place < tile.rows; ++place) {
    const Row row = row_of(call, tile, place, weights, negatives);
    float shift = 0.0f;
    const int64_t own = polarity_at(call, tile, place);
    totals[place] = weigh<KEPT>(row, plain, call.polarity[own], call.log_polarity[own], shift);
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
template <bool KEPT>
void balance_tile(const Call& call, const Tile& tile, float* scores, float* negatives, float* weights) {
  const bool plain = write_scores(call, tile, scores);
  for (int64_t place = 0; place < tile.rows; ++place) {
    Row row = row_of(call, tile, place, scores, negatives);
    if (!KEPT) row.negatives = negatives;
    float *const joint = weights + place * tile.columns, *const differences = KEPT ? joint : negatives + tile.columns;
    const Shares shares = shares_at(call, tile, place);
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

// The output of a tile's queries, from their weights.
void weigh_values(const Call& call, const Tile& tile, const float* weights, float* output) {
  const float* value = part(call.value, call.value_steps, tile.entry, tile.kv_head, tile.low);
  const int64_t width = call.value_width;
  multiply(false, false, tile.rows, width, tile.columns, 1.0f, weights, tile.columns, value, most(call.value_steps[2], width), 0.0f, output,
           most(width, 1));
}

void forward_tile(const Call& call, const Tile& tile, float* weights) {
  const int64_t start = (tile.entry * call.heads + tile.head) * call.queries + tile.first, width = call.value_width;
  float *output = call.output + start * width, *spare = weights + call.rows * call.keys;
  if (call.balanced) {
    balance_tile<false>(call, tile, weights, spare, weights);
    return weigh_values(call, tile, weights, output);
  }
  float* const lse = call.lse + start;
  weigh_tile<false>(call, tile, weights, nullptr, spare, lse);
  weigh_values(call, tile, weights, output);
  for (int64_t place = 0; place < tile.rows; ++place) {
    const bool empty = spare[place] == 0.0f;
    const float inverse = empty ? 0.0f : 1.0f / spare[place];
    for (int64_t column = 0; column < width; ++column) output[place * width + column] *= inverse;
    lse[place] = empty ? INFINITY : std::log(spare[place]) + lse[place];
  }
}

// grads: dO V^T over the denominator; becomes the gradient of the scores. Returns the sum of N (dP + D) over the denominator.
float score_gradient(const Row& row, float* grads, float inverse, const float* joint_delta, bool summed) {
  float products[LANES] = {}, parts[LANES] = {};
  if (joint_delta == nullptr)
    by_lanes(row.low, row.high, [&](int64_t column, int64_t lane) { products[lane] += grads[column] * row.weights[column]; });
  const float delta = (joint_delta == nullptr ? total_of(products) : *joint_delta) * inverse;
  if (summed)
    by_lanes(row.low, row.high, [&](int64_t column, int64_t lane) { parts[lane] += row.negatives[column] * (grads[column] + delta); });
  for (int64_t column = row.low; column < row.high; ++column)
    grads[column] = row.weights[column] * (grads[column] - delta) + 2.0f * row.negatives[column] * grads[column];
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

// From the gradient of the output, or that over the denominator for weights without it: adds up that of the values, and writes that of the
// weights, which may take their place.
void back_through_values(const Call& call, const Tile& tile, const float* weights, const float* upstream, int64_t step, float* grads) {
  const int64_t keys = (tile.entry * call.kv_heads + tile.kv_head) * call.keys + tile.low, width = call.value_width;
  multiply(true, false, tile.columns, width, tile.rows, 1.0f, weights, tile.columns, upstream, step, 1.0f, call.grad_value + keys * width,
           most(width, 1));
  const float* value = part(call.value, call.value_steps, tile.entry, tile.kv_head, tile.low);
  scores_of(tile, width, 1.0f, upstream, step, value, call.value_steps[2], grads);
}

// From the gradient of a tile's scores to those of its queries and keys.
void back_to_inputs(const Call& call, const Tile& tile, const float* grads) {
  const int64_t width = call.width, queries = (tile.entry * call.heads + tile.head) * call.queries + tile.first;
  const int64_t keys = (tile.entry * call.kv_heads + tile.kv_head) * call.keys + tile.low;
  const float scale = static_cast<float>(call.scale);
  const float* query = part(call.query, call.query_steps, tile.entry, tile.head, tile.first);
  const float* key = part(call.key, call.key_steps, tile.entry, tile.kv_head, tile.low);
  multiply(false, false, tile.rows, width, tile.columns, scale, grads, tile.columns, key, most(call.key_steps[2], width), 0.0f,
           call.grad_query + queries * width, most(width, 1));
  multiply(true, false, tile.columns, width, tile.rows, scale, grads, tile.columns, query, most(call.query_steps[2], width), 1.0f,
           call.grad_key + keys * width, most(width, 1));
}

// Upstream for weights without their denominator; inverses: the denominators, which become their inverses.
void divide_upstream(const Call& call, const Tile& tile, float* upstream, float* inverses) {
  for (int64_t place = 0; place < tile.rows; ++place) {
    const float* own = part(call.grad_output, call.grad_output_steps, tile.entry, tile.head, tile.first + place);
    inverses[place] = inverses[place] == 0.0f ? 0.0f : 1.0f / inverses[place];
    float* into = upstream + place * call.value_width;
    for (int64_t column = 0; column < call.value_width; ++column) into[column] = own[column] * inverses[place];
  }
}

// Denominators over more keys than the tile's, of rows that see any of these.
void join_totals(const float* lse, int64_t rows, float* totals, const float* shifts) {
  for (int64_t place = 0; place < rows; ++place)
    if (totals[place] != 0.0f) totals[place] = std::exp(lse[place] - shifts[place]);
}

void backward_tile(const Call& call, const Tile& tile, float* weights) {
  const int64_t size = call.rows * call.keys, value_width = call.value_width;
  const int64_t rows_at = (tile.entry * call.heads + tile.head) * call.queries + tile.first;
  float *negatives = weights + size, *grads = negatives + size, *upstream = grads + size, *inverses = upstream + call.rows * value_width;
  if (call.balanced) {
    balance_tile<true>(call, tile, weights, negatives, grads);
    const float* own = part(call.grad_output, call.grad_output_steps, tile.entry, tile.head, tile.first);
    back_through_values(call, tile, grads, own, most(call.grad_output_steps[2], value_width), grads);
  } else {
    weigh_tile<true>(call, tile, weights, negatives, inverses, upstream);
    if (call.joint_lse != nullptr) join_totals(call.joint_lse + rows_at, tile.rows, inverses, upstream);
    divide_upstream(call, tile, upstream, inverses);
    back_through_values(call, tile, weights, upstream, most(value_width, 1), grads);
  }
  const bool summed = call.grad_polarity != nullptr;
  float* const sums = summed ? call.grad_polarity + rows_at : nullptr;
  for (int64_t place = 0; place < tile.rows; ++place) {
    const Row row = row_of(call, tile, place, weights, negatives);
    float* const own = grads + place * tile.columns;
    float sum;
    if (call.balanced) {
      const Shares shares = shares_at(call, tile, place);
      sum = shares.positive * shares.positive * balanced_gradient(row, own, shares);
    } else {
      sum = score_gradient(row, own, inverses[place], call.joint_delta == nullptr ? nullptr : call.joint_delta + rows_at + place, summed);
    }
    if (summed) sums[place] = -sum;
    clear_outside(row, own, tile.columns);
  }
  back_to_inputs(call, tile, grads);
}

}  // namespace

extern "C" {

void hf_tanhmax_forward(const Call* call) {
  const int64_t blocks = (call->queries + call->rows - 1) / call->rows, units = call->batch * call->heads * blocks;
#pragma omp parallel for schedule(dynamic) num_threads(call->threads) if (units > 1 && units * call->share > ALONE)
  for (int64_t unit = 0; unit < units; ++unit) {
    const Tile tile = tile_at(*call, unit / blocks / call->heads, unit / blocks % call->heads, unit % blocks * call->rows);
    if (tile.columns > 0) forward_tile(*call, tile, call->scratch + omp_get_thread_num() * call->share);
  }
}

void hf_tanhmax_backward(const Call* call) {
  const int64_t units = call->batch * call->kv_heads, groups = call->heads / call->kv_heads;
#pragma omp parallel for schedule(dynamic) num_threads(call->threads) if (units > 1 && units * call->share > ALONE)
  for (int64_t unit = 0; unit < units; ++unit)
    for (int64_t head = unit % call->kv_heads * groups; head < (unit % call->kv_heads + 1) * groups; ++head)
      for (int64_t first = 0; first < call->queries; first += call->rows) {
        const Tile tile = tile_at(*call, unit / call->kv_heads, head, first);
        if (tile.columns > 0) backward_tile(*call, tile, call->scratch + omp_get_thread_num() * call->share);
      }
}

}  // extern "C"
