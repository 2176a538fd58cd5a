
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>

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
  float *output, *lse;                    // dense [batch, heads, queries, value_width] and, if not balanced, [batch, heads, queries]
  float *grad_query, *grad_key, *grad_value;  // dense, and zero at the start
  float *grad_polarity;                   // by row: dense [batch, heads, queries], zero at the start; of log p, or if balanced of p; or null
  float *scratch;                         // share numbers for each thread
  int64_t query_steps[3], key_steps[3], value_steps[3], grad_output_steps[3], keep_steps[4], polarity_steps[2];
  int64_t batch, heads, kv_heads, queries, keys, width, value_width, rows, threads, share, balanced;
  double scale;
};

namespace {

constexpr int64_t LANES = 16;       // independent sums, so that loops become vector code without reordering any sum
constexpr int64_t ALONE = 1 << 14;  // fewer scores are not worth a second thread
constexpr float LOG2_OF_E = 1.44269504088896341f;

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

// visit(column, lane) for the columns from low to high, in lanes.
template <class Visit>
inline void by_lanes(int64_t low, int64_t high, const Visit& visit) {
  int64_t column = low;
  for (; column + LANES <= high; column += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) visit(column + lane, lane);
  for (; column < high; ++column) visit(column, 0);
}

float total_of(const float* sums) {
  float found = 0.0f;
  for (int64_t lane = 0; lane < LANES; ++lane) found += sums[lane];
  return found;
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

// A row of scores that becomes weights in place; N goes to negatives if it is kept.
struct Row {
  float *weights, *negatives;
  const uint8_t* seen;  // by column; null: all
  int64_t step, low, high;
};

template <bool MASKED, bool KEPT, class Map>
float weigh_columns(const Row& row, const Map& map, int64_t step) {
  float sums[LANES] = {};
  by_lanes(row.low, row.high, [&](int64_t column, int64_t lane) {
    float positive, negative;
    map(row.weights[column], positive, negative);
    if (MASKED) {
      const float visible = static_cast<float>(row.seen[column * step]);
      positive *= visible;
      negative *= visible;
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
    map(row.weights[column], positive, negative, difference);
    if (MASKED) {
      const float visible = static_cast<float>(row.seen[column * step]);
      positive *= visible;
      negative *= visible;
      difference *= visible;
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
    const float x = row.weights[column];
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
  const float common = -shares.negative * (sums.difference * larger) * smaller, rest = (shares.positive - shares.negative) * inverse_of(sums.positive);
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
float score_gradient(const Row& row, float* grads, float inverse, bool summed) {
  float products[LANES] = {}, parts[LANES] = {};
  by_lanes(row.low, row.high, [&](int64_t column, int64_t lane) { products[lane] += grads[column] * row.weights[column]; });
  const float delta = total_of(products) * inverse;
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
    for (int64_t column = 0; column < call.value_width; ++column) upstream[place * call.value_width + column] = own[column] * inverses[place];
  }
}

void backward_tile(const Call& call, const Tile& tile, float* weights) {
  const int64_t size = call.rows * call.keys, value_width = call.value_width;
  float *negatives = weights + size, *grads = negatives + size, *upstream = grads + size, *inverses = upstream + call.rows * value_width;
  if (call.balanced) {
    balance_tile<true>(call, tile, weights, negatives, grads);
    const float* own = part(call.grad_output, call.grad_output_steps, tile.entry, tile.head, tile.first);
    back_through_values(call, tile, grads, own, most(call.grad_output_steps[2], value_width), grads);
  } else {
    weigh_tile<true>(call, tile, weights, negatives, inverses, nullptr);
    divide_upstream(call, tile, upstream, inverses);
    back_through_values(call, tile, weights, upstream, most(value_width, 1), grads);
  }
  const bool summed = call.grad_polarity != nullptr;
  float* const sums = summed ? call.grad_polarity + (tile.entry * call.heads + tile.head) * call.queries + tile.first : nullptr;
  for (int64_t place = 0; place < tile.rows; ++place) {
    const Row row = row_of(call, tile, place, weights, negatives);
    float* const own = grads + place * tile.columns;
    float sum;
    if (call.balanced) {
      const Shares shares = shares_at(call, tile, place);
      sum = shares.positive * shares.positive * balanced_gradient(row, own, shares);
    } else {
      sum = score_gradient(row, own, inverses[place], summed);
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
