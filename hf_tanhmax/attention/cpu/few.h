
// A few queries against many keys, as in decoding: keys and values are read once, where they lie, and none is copied. The keys of a head
// may be split over threads; each part has a shift of its own, and parts merge by it. The other headers stand in front of this.

namespace {

constexpr int64_t LEAST_KEYS = 512;  // of a part
constexpr int64_t NEXT = LANES < 8 ? LANES : 8;  // keys that are multiplied at once
typedef std::integral_constant<int64_t, NEXT> Next;
constexpr int64_t NEAR_KEYS = 64;    // whose values stay in a processor's nearest memory

struct Parts {
  int64_t count, keys;  // of a head, and of a part
  explicit Parts(const Call& call) {
    const int64_t heads = call.batch * call.heads, wanted = call.balanced ? 1 : (call.threads + heads - 1) / heads;
    count = most(1, least(wanted, call.keys / LEAST_KEYS));
    keys = (call.keys + count - 1) / count;
  }
};

struct Scores {  // as Products, for row_of
  const Call& call;
  const Tile& tile;
  const int64_t step;
};

// What a part leaves of each query: a shift, the denominator, and the sum of values [value_width], which is without it.
struct Left {
  float *shift, *total, *sums;
  Left(const Call& call, int64_t unit, int64_t place) {
    shift = call.partial + (unit * call.queries + place) * (call.value_width + 2);
    total = shift + 1, sums = shift + 2;
  }
};

// The products of a row with `count` others, whose lanes are still to be summed.
template <class Number, class Count>
inline void multiply_rows(const Number* row, const Number* others, int64_t step, int64_t width, Lanes* sums, Count count) {
  by_lanes(0, width, [=](int64_t at, auto share) {
    const Lanes own = load(row + at, share);
    for (int64_t other = 0; other < count; ++other) sums[other] += own * load(others + other * step + at, share);
  });
}

// Scores [rows, columns] of a tile, LANES keys at a time; says whether all are finite.
template <class Number>
bool score_few(const Call& call, const Tile& tile, float* scores) {
  const int64_t step = call.key_steps[2];
  Lanes checked = {};
  by_lanes(0, tile.columns, [&](int64_t column, auto count) {
    const Number* const keys = part<Number>(call.key, call.key_steps, tile.entry, tile.kv_head, tile.low + column);
    for (int64_t place = 0; place < tile.rows; ++place) {
      const Number* const query = part<Number>(call.query, call.query_steps, tile.entry, tile.head, tile.first + place);
      Lanes sums[LANES] = {};
      int64_t key = 0;
      for (; key + NEXT <= count; key += NEXT) multiply_rows(query, keys + key * step, step, call.width, sums + key, Next());
      multiply_rows(query, keys + key * step, step, call.width, sums + key, count - key);
      const Lanes found = static_cast<float>(call.scale) * totals_of(sums);
      store(found, scores + place * tile.columns + column, count);
      checked += found;
    }
  });
  return std::isfinite(total_of(checked));
}

// Adds the values of some keys of a tile, each times its weight, to sums [value_width]: four rows at a time, as they lie.
template <class Number>
void sum_values(const Call& call, const Tile& tile, int64_t key, int64_t end, const float* weights, float* __restrict sums) {
  const int64_t step = call.value_steps[2], width = call.value_width;
  const Number* values = part<Number>(call.value, call.value_steps, tile.entry, tile.kv_head, tile.low + key);
  for (; key + 4 <= end; key += 4, values += 4 * step) {
    const float w0 = weights[key], w1 = weights[key + 1], w2 = weights[key + 2], w3 = weights[key + 3];
    const Number *second = values + step, *third = second + step, *fourth = third + step;
    for (int64_t at = 0; at < width; ++at)
      sums[at] += (w0 * number_of(values[at]) + w1 * number_of(second[at])) + (w2 * number_of(third[at]) + w3 * number_of(fourth[at]));
  }
  for (; key < end; ++key, values += step)
    for (int64_t at = 0; at < width; ++at) sums[at] += weights[key] * number_of(values[at]);
}

// One part of the keys of a head, for all its queries; says whether its scores are finite.
template <class Number>
bool weigh_part(const Call& call, const Parts& parts, int64_t unit, float* scores) {
  const int64_t at = unit / parts.count, low = unit % parts.count * parts.keys;
  const int64_t entry = at / call.heads, head = at % call.heads;
  const Tile tile{entry, head, head / (call.heads / call.kv_heads), 0, call.queries, low, most(0, least(parts.keys, call.keys - low))};
  if (!score_few<Number>(call, tile, scores)) return false;
  const Scores own{call, tile, tile.columns};
  float* const spare = scores + tile.rows * tile.columns;
  for (int64_t place = 0; place < tile.rows; ++place) {
    const Left left(call, unit, place);
    const float log_polarity = log_polarity_at(call, tile, place);
    Row row = row_of(own, place, scores, nullptr);
    const float level = prepare_row(own, place, false, {spare + (call.balanced ? 2 * tile.columns : 0), nullptr}, row);
    const Extremes found = extremes_of(row);
    const float largest = std::fmax(std::fabs(found.highest), std::fabs(found.lowest)) + std::fmax(log_polarity, 0.0f);
    const bool plain = call.additive == nullptr && largest < PLAIN_LIMIT;  // levels are those of rows with a shift
    row.unit = plain ? LOG2_OF_E : 1.0f;
    *left.shift = 0.0f, *left.total = 1.0f;
    if (call.balanced) {
      row.negatives = spare;
      balance_row<false>(row, found, plain, shares_of(log_polarity), row.weights, spare + tile.columns);
    } else {
      *left.total = weigh<false, Plain>(row, found, plain, log_polarity, *left.shift);
    }
    *left.shift += level;
    clear_outside(row, row.weights, tile.columns);
    if (call.dropped > 0) drop_row(own, place, row.weights, row.weights);
    std::memset(left.sums, 0, call.value_width * sizeof(float));
  }
  // A few values at a time, for all queries: so they are read from memory once.
  for (int64_t key = 0; key < tile.columns; key += NEAR_KEYS)
    for (int64_t place = 0; place < tile.rows; ++place)
      sum_values<Number>(call, tile, key, least(key + NEAR_KEYS, tile.columns), scores + place * own.step, Left(call, unit, place).sums);
  return true;
}

template <class Number>
void merge_parts(const Call& call, const Parts& parts, int64_t row) {
  const int64_t at = row / call.queries, place = row % call.queries, first = at * parts.count;
  float shift = -INFINITY, total = 0.0f;
  for (int64_t unit = first; unit < first + parts.count; ++unit) {
    const Left left(call, unit, place);
    if (*left.total > 0.0f) shift = std::fmax(shift, *left.shift);
  }
  const Left into(call, first, place);
  for (int64_t unit = first; unit < first + parts.count; ++unit) {
    const Left left(call, unit, place);
    const float factor = *left.total > 0.0f ? std::exp(*left.shift - shift) : 0.0f;
    total += factor * *left.total;
    for (int64_t column = 0; column < call.value_width; ++column)
      into.sums[column] = (unit == first ? 0.0f : into.sums[column]) + factor * left.sums[column];
  }
  const float inverse = inverse_of(total);
  for (int64_t column = 0; column < call.value_width; ++column)
    narrow(inverse * into.sums[column], static_cast<Number*>(call.output)[row * call.value_width + column]);
  if (!call.balanced) call.lse[row] = total == 0.0f ? INFINITY : std::log(total) + shift;
}

template <class Number>
bool forward_few(const Call& call) {
  const Parts parts(call);
  const int64_t heads = call.batch * call.heads, units = heads * parts.count;
  int finite = 1;
#pragma omp parallel num_threads(call.threads) if (units > 1 && call.batch * call.heads * call.keys > ALONE)
  {
#pragma omp for schedule(dynamic) reduction(&& : finite)
    for (int64_t unit = 0; unit < units; ++unit)
      finite = weigh_part<Number>(call, parts, unit, call.scratch + omp_get_thread_num() * call.share) && finite;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < heads * call.queries; ++row) merge_parts<Number>(call, parts, row);
  }
  return finite;
}

}  // namespace
