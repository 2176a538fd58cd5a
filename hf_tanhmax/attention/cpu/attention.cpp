
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
  float *output, *lse;                    // dense [batch, heads, queries, value_width] and [batch, heads, queries]
  float *grad_query, *grad_key, *grad_value;  // dense, and zero at the start
  float *grad_log_polarity;               // by row: dense [batch, heads, queries], zero at the start; or null
  float *scratch;                         // for each thread: rows * (keys, and backward 3 keys + value_width + 1)
  int64_t query_steps[3], key_steps[3], value_steps[3], grad_output_steps[3], keep_steps[4], polarity_steps[2];
  int64_t batch, heads, kv_heads, queries, keys, width, value_width, rows, threads;
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

float total_of(const float* sums) {
  float found = 0.0f;
  for (int64_t lane = 0; lane < LANES; ++lane) found += sums[lane];
  return found;
}

// The map of one row: how a score becomes P and N.
struct Plain {
  float polarity;
  float shift() const { return 0.0f; }
  inline void operator()(float x, float& positive, float& negative) const {  // x: times log2(e), |x| < 126
    const float n = nearest(x);
    const Split parts = split(x - n, n);
    positive = power_of_two(parts.whole) * (parts.even + parts.odd);
    negative = polarity * (power_of_two(-parts.whole) * (parts.even - parts.odd));
  }
};

struct Shifted {
  float highest, log_polarity;
  float shift() const { return highest; }
  inline void operator()(float x, float& positive, float& negative) const {
    positive = exponential(x - highest);
    negative = exponential((log_polarity - highest) - x);
  }
};

// A row of scores that becomes weights in place; N goes to negatives if it is kept.
struct Row {
  float *weights, *negatives;
  const uint8_t* seen;  // by column; null: all
  int64_t step, low, high;
};

template <bool MASKED, bool KEPT, class Map>
inline float weigh_one(const Row& row, const Map& map, int64_t column, int64_t step) {
  float positive, negative;
  map(row.weights[column], positive, negative);
  if (MASKED) {
    const float visible = static_cast<float>(row.seen[column * step]);
    positive *= visible;
    negative *= visible;
  }
  row.weights[column] = positive - negative;
  if (KEPT) row.negatives[column] = negative;
  return positive + negative;
}

template <bool MASKED, bool KEPT, class Map>
float weigh_columns(const Row& row, const Map& map, int64_t step) {
  float sums[LANES] = {};
  int64_t column = row.low;
  for (; column + LANES <= row.high; column += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) sums[lane] += weigh_one<MASKED, KEPT>(row, map, column + lane, step);
  for (; column < row.high; ++column) sums[0] += weigh_one<MASKED, KEPT>(row, map, column, step);
  return total_of(sums);
}

template <bool KEPT, class Map>
float weigh_row(const Row& row, const Map& map) {  // returns the sum of P + N
  if (row.seen == nullptr) return weigh_columns<false, KEPT>(row, map, 0);
  return row.step == 1 ? weigh_columns<true, KEPT>(row, map, 1) : weigh_columns<true, KEPT>(row, map, row.step);
}

// The largest exponent of a row over its visible keys: of its scores and of log p minus them.
template <bool MASKED>
float highest_exponent(const Row& row, float log_polarity, int64_t step) {
  float highest[LANES], lowest[LANES];
  for (int64_t lane = 0; lane < LANES; ++lane) highest[lane] = -INFINITY, lowest[lane] = INFINITY;
  const auto look = [&](int64_t column, int64_t lane) {
    const float x = row.weights[column];
    const bool visible = !MASKED || row.seen[column * step] != 0;
    const float high = visible ? x : -INFINITY, low = visible ? x : INFINITY;
    highest[lane] = high > highest[lane] ? high : highest[lane];
    lowest[lane] = low < lowest[lane] ? low : lowest[lane];
  };
  int64_t column = row.low;
  for (; column + LANES <= row.high; column += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) look(column + lane, lane);
  for (; column < row.high; ++column) look(column, 0);
  for (int64_t lane = 1; lane < LANES; ++lane) {
    highest[0] = std::fmax(highest[0], highest[lane]);
    lowest[0] = std::fmin(lowest[0], lowest[lane]);
  }
  const float found = std::fmax(highest[0], log_polarity - lowest[0]);
  return found == -INFINITY ? 0.0f : found;
}

float highest_exponent(const Row& row, float log_polarity) {
  if (row.seen == nullptr) return highest_exponent<false>(row, log_polarity, 0);
  return row.step == 1 ? highest_exponent<true>(row, log_polarity, 1) : highest_exponent<true>(row, log_polarity, row.step);
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
  shift = highest_exponent(row, log_polarity);
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

// Scores of a tile as weights without their denominator; totals: the denominators. shifts may be null.
template <bool KEPT>
void weigh_tile(const Call& call, const Tile& tile, float* weights, float* negatives, float* totals, float* shifts) {
  const bool plain = call.plain[tile.entry * call.kv_heads + tile.kv_head];
  const float alpha = static_cast<float>(plain ? call.scale * 1.44269504088896341 : call.scale);
  const float* query = part(call.query, call.query_steps, tile.entry, tile.head, tile.first);
  const float* key = part(call.key, call.key_steps, tile.entry, tile.kv_head, tile.low);
  scores_of(tile, call.width, alpha, query, call.query_steps[2], key, call.key_steps[2], weights);
  for (int64_t place = 0; place < tile.rows; ++place) {
    const Row row = row_of(call, tile, place, weights, negatives);
    float shift = 0.0f;
    const int64_t own = tile.head * call.polarity_steps[0] + (tile.first + place) * call.polarity_steps[1];
    totals[place] = weigh<KEPT>(row, plain, call.polarity[own], call.log_polarity[own], shift);
    if (shifts != nullptr) shifts[place] = shift;
    clear_outside(row, row.weights, tile.columns);
  }
}

void forward_tile(const Call& call, const Tile& tile, float* weights) {
  const int64_t start = (tile.entry * call.heads + tile.head) * call.queries + tile.first, width = call.value_width;
  float *output = call.output + start * width, *lse = call.lse + start;
  float* const totals = weights + call.rows * call.keys;
  weigh_tile<false>(call, tile, weights, nullptr, totals, lse);
  const float* value = part(call.value, call.value_steps, tile.entry, tile.kv_head, tile.low);
  multiply(false, false, tile.rows, width, tile.columns, 1.0f, weights, tile.columns, value, most(call.value_steps[2], width), 0.0f, output,
           most(width, 1));
  for (int64_t place = 0; place < tile.rows; ++place) {
    const bool empty = totals[place] == 0.0f;
    const float inverse = empty ? 0.0f : 1.0f / totals[place];
    for (int64_t column = 0; column < width; ++column) output[place * width + column] *= inverse;
    lse[place] = empty ? INFINITY : std::log(totals[place]) + lse[place];
  }
}

// grads: dO V^T over the denominator; becomes the gradient of the scores. Returns the sum of N (dP + D) over the denominator.
float score_gradient(const Row& row, float* grads, float inverse, bool summed) {
  float products[LANES] = {}, parts[LANES] = {};
  int64_t column = row.low;
  for (; column + LANES <= row.high; column += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) products[lane] += grads[column + lane] * row.weights[column + lane];
  for (; column < row.high; ++column) products[0] += grads[column] * row.weights[column];
  const float delta = total_of(products) * inverse;
  if (summed) {
    for (column = row.low; column + LANES <= row.high; column += LANES)
      for (int64_t lane = 0; lane < LANES; ++lane) parts[lane] += row.negatives[column + lane] * (grads[column + lane] + delta);
    for (; column < row.high; ++column) parts[0] += row.negatives[column] * (grads[column] + delta);
  }
  for (column = row.low; column < row.high; ++column)
    grads[column] = row.weights[column] * (grads[column] - delta) + 2.0f * row.negatives[column] * grads[column];
  return total_of(parts);
}

void backward_tile(const Call& call, const Tile& tile, float* weights) {
  const int64_t size = call.rows * call.keys, width = call.width, value_width = call.value_width;
  float *negatives = weights + size, *grads = negatives + size, *upstream = grads + size, *inverses = upstream + call.rows * value_width;
  weigh_tile<true>(call, tile, weights, negatives, inverses, nullptr);
  for (int64_t place = 0; place < tile.rows; ++place) {
    const float* own = part(call.grad_output, call.grad_output_steps, tile.entry, tile.head, tile.first + place);
    inverses[place] = inverses[place] == 0.0f ? 0.0f : 1.0f / inverses[place];
    for (int64_t column = 0; column < value_width; ++column) upstream[place * value_width + column] = own[column] * inverses[place];
  }
  const int64_t keys = (tile.entry * call.kv_heads + tile.kv_head) * call.keys + tile.low;
  const int64_t upstream_step = most(value_width, 1), query_step = most(call.query_steps[2], width);
  multiply(true, false, tile.columns, value_width, tile.rows, 1.0f, weights, tile.columns, upstream, upstream_step, 1.0f,
           call.grad_value + keys * value_width, upstream_step);
  const float* value = part(call.value, call.value_steps, tile.entry, tile.kv_head, tile.low);
  scores_of(tile, value_width, 1.0f, upstream, upstream_step, value, call.value_steps[2], grads);
  const int64_t queries = (tile.entry * call.heads + tile.head) * call.queries + tile.first;
  for (int64_t place = 0; place < tile.rows; ++place) {
    const Row row = row_of(call, tile, place, weights, negatives);
    const float sum = score_gradient(row, grads + place * tile.columns, inverses[place], call.grad_log_polarity != nullptr);
    if (call.grad_log_polarity != nullptr) call.grad_log_polarity[queries + place] = -sum;
    clear_outside(row, grads + place * tile.columns, tile.columns);
  }
  const float scale = static_cast<float>(call.scale);
  const float* query = part(call.query, call.query_steps, tile.entry, tile.head, tile.first);
  const float* key = part(call.key, call.key_steps, tile.entry, tile.kv_head, tile.low);
  multiply(false, false, tile.rows, width, tile.columns, scale, grads, tile.columns, key, most(call.key_steps[2], width), 0.0f,
           call.grad_query + queries * width, most(width, 1));
  multiply(true, false, tile.columns, width, tile.rows, scale, grads, tile.columns, query, query_step, 1.0f, call.grad_key + keys * width,
           most(width, 1));
}

}  // namespace

extern "C" {

void hf_tanhmax_forward(const Call* call) {
  const int64_t blocks = (call->queries + call->rows - 1) / call->rows, units = call->batch * call->heads * blocks;
  const int64_t share = call->rows * (call->keys + 1);
#pragma omp parallel for schedule(dynamic) num_threads(call->threads) if (units > 1 && units * share > ALONE)
  for (int64_t unit = 0; unit < units; ++unit) {
    const Tile tile = tile_at(*call, unit / blocks / call->heads, unit / blocks % call->heads, unit % blocks * call->rows);
    if (tile.columns > 0) forward_tile(*call, tile, call->scratch + omp_get_thread_num() * share);
  }
}

void hf_tanhmax_backward(const Call* call) {
  const int64_t units = call->batch * call->kv_heads, groups = call->heads / call->kv_heads;
  const int64_t share = call->rows * (3 * call->keys + call->value_width + 1);
#pragma omp parallel for schedule(dynamic) num_threads(call->threads) if (units > 1 && units * share > ALONE)
  for (int64_t unit = 0; unit < units; ++unit)
    for (int64_t head = unit % call->kv_heads * groups; head < (unit % call->kv_heads + 1) * groups; ++head)
      for (int64_t first = 0; first < call->queries; first += call->rows) {
        const Tile tile = tile_at(*call, unit / call->kv_heads, head, first);
        if (tile.columns > 0) backward_tile(*call, tile, call->scratch + omp_get_thread_num() * share);
      }
}

}  // extern "C"
