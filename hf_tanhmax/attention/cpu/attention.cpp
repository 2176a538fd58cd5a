
// Forward and backward passes, and what is called from outside. The headers stand in front of this; Products is Exact or Half.

namespace {

// The scratch memory of a thread.
struct Scratch {
  float* next;
  float* take(int64_t count) {
    float* const found = next;
    next += count;
    return found;
  }
};

template <class Products>
void forward_tile(const Call& call, const Tile& tile, Scratch scratch) {
  float *const totals = scratch.take(call.rows), *const halves = scratch.take(call.balanced ? 2 * tile.columns : 0);
  const Spare spare{scratch.take(call.additive == nullptr ? 0 : tile.columns), nullptr};
  float* const weights = scratch.take(call.tile_size);
  const Products own(call, tile, scratch.next);
  if (call.balanced) {
    balance_tile<false>(own, spare, weights, halves, weights);
    return own.weigh_values(weights, nullptr);
  }
  float* const lse = call.lse + query_at(call, tile);
  weigh_tile<false>(own, spare, weights, nullptr, totals, lse);
  for (int64_t place = 0; place < tile.rows; ++place) {
    lse[place] = totals[place] == 0.0f ? INFINITY : std::log(totals[place]) + lse[place];
    totals[place] = inverse_of(totals[place]);
  }
  own.weigh_values(weights, totals);
}

// What a row's gradient needs besides: factor: what grads, dO V^T, is to be multiplied by; inverse: of the denominator, as factor is unless
// it is in grads already; joint: null, or D over more keys; faded: null, or a row for the gradient of the additive mask.
struct Given {
  float factor, inverse;
  const float* joint;
  float* faded;
};

float product_of(const Row& row, const float* first, const float* second) {
  return sum_of(row.low, row.high, [=](int64_t column, auto count) { return load(first + column, count) * load(second + column, count); });
}

// grads becomes the gradient of the scores. Returns the sum of N (dP + D) over the denominator, if summed.
float score_gradient(const Row row, float* grads, const Given& given, bool summed) {
  const float factor = given.factor;
  const float product = given.joint == nullptr ? product_of(row, grads, row.weights) : 0.0f;
  const float delta = (given.joint == nullptr ? product * factor : *given.joint) * given.inverse;
  const auto part = [=](int64_t column, auto count) {
    return load(row.negatives + column, count) * (factor * load(grads + column, count) + delta);
  };
  const float found = summed ? sum_of(row.low, row.high, part) : 0.0f;
  for (int64_t column = row.low; given.faded != nullptr && column < row.high; ++column)
    given.faded[column] = row.weights[column] * (factor * grads[column] - delta) - 2.0f * row.negatives[column] * delta;
  for (int64_t column = row.low; column < row.high; ++column) {
    const float grad = factor * grads[column];
    grads[column] = row.weights[column] * (grad - delta) + 2.0f * row.negatives[column] * grad;
  }
  return found;
}

// row: P and N; grads: dO V^T, becomes the gradient of the scores; faded as above. Returns the sum of (P + N) dP.
float balanced_gradient(const Row row, float* grads, Shares shares, float* faded) {
  const float positive = product_of(row, grads, row.weights), negative = product_of(row, grads, row.negatives);
  for (int64_t column = row.low; faded != nullptr && column < row.high; ++column)
    faded[column] = shares.positive * row.weights[column] * (grads[column] - positive) -
                    shares.negative * row.negatives[column] * (grads[column] - negative);
  for (int64_t column = row.low; column < row.high; ++column)
    grads[column] = shares.positive * row.weights[column] * (grads[column] - positive) +
                    shares.negative * row.negatives[column] * (grads[column] - negative);
  return positive + negative;
}

// Denominators over more keys than the tile's, of rows that see any of these.
void join_totals(const float* lse, int64_t rows, float* totals, const float* shifts) {
  for (int64_t place = 0; place < rows; ++place)
    if (totals[place] != 0.0f) totals[place] = std::exp(lse[place] - shifts[place]);
}

// What becomes of a row's gradient of the scores: that of bias and additive mask, and that before a softcap.
void pass_on(const Call& call, const Tile& tile, int64_t place, const Row& row, float* grads, const float* faded, const float* slopes) {
  if (call.grad_additive != nullptr) add_row(call.grad_additive, call.grad_additive_steps, tile, place, row, faded);
  if (call.grad_bias != nullptr) add_row(call.grad_bias, call.grad_bias_steps, tile, place, row, grads);
  for (int64_t column = row.low; slopes != nullptr && column < row.high; ++column) grads[column] *= slopes[column];
  clear_outside(row, grads, tile.columns);
}

template <class Products>
void backward_tile(const Call& call, const Tile& tile, Scratch scratch) {
  float *const inverses = scratch.take(call.rows), *const shifts = scratch.take(call.rows);
  const Spare spare{scratch.take(call.additive == nullptr ? 0 : tile.columns), call.softcap > 0.0 ? scratch.take(call.tile_size) : nullptr};
  float *const weights = scratch.take(call.tile_size), *const negatives = scratch.take(call.tile_size);
  float* const grads = scratch.take(call.tile_size);
  const int64_t rows_at = query_at(call, tile);
  const Products own(call, tile, scratch.next);
  const auto drop = [&](const float* from) {
    for (int64_t place = 0; call.dropped > 0 && place < tile.rows; ++place)
      drop_row(own, place, from + place * own.step, grads + place * own.step);
  };
  bool later = false;
  if (call.balanced) {
    balance_tile<true>(own, spare, weights, negatives, grads);
    drop(grads);
    own.back_through_values(grads, nullptr, grads);
  } else {
    weigh_tile<true>(own, spare, weights, negatives, inverses, shifts);
    if (call.joint_lse != nullptr) join_totals(call.joint_lse + rows_at, tile.rows, inverses, shifts);
    for (int64_t place = 0; place < tile.rows; ++place) inverses[place] = inverse_of(inverses[place]);
    drop(weights);
    later = own.back_through_values(call.dropped > 0 ? grads : weights, inverses, grads);
  }
  drop(grads);
  const bool summed = call.grad_polarity != nullptr;
  float* const sums = summed ? call.grad_polarity + rows_at : nullptr;
  float* const faded = call.grad_additive == nullptr ? nullptr : spare.levels;
  for (int64_t place = 0; place < tile.rows; ++place) {
    const Row row = row_of(own, place, weights, negatives);
    float* const found = grads + place * own.step;
    float sum;
    if (call.balanced) {
      const Shares shares = shares_of(log_polarity_at(call, tile, place));
      sum = shares.positive * shares.positive * balanced_gradient(row, found, shares, faded);
    } else {
      const float* const joint = call.joint_delta == nullptr ? nullptr : call.joint_delta + rows_at + place;
      sum = score_gradient(row, found, {later ? inverses[place] : 1.0f, inverses[place], joint, faded}, summed);
    }
    if (summed) sums[place] = -sum;
    pass_on(call, tile, place, row, found, faded, spare.slopes == nullptr ? nullptr : spare.slopes + place * own.step);
  }
  own.back_to_inputs(grads);
}

template <class Number>
inline Lanes squares_of(const Number* row, int64_t width) {
  Lanes sums = {};
  by_lanes(0, width, [&](int64_t column, auto count) { sums += load(row + column, count) * load(row + column, count); });
  return sums;
}

// The square of the length of the longest row of a head; NaN if one is not finite. LANES rows at a time, whose sums are added as vectors.
template <class Number>
float longest_of(const void* tensor, const int64_t* steps, int64_t entry, int64_t head, int64_t rows, int64_t width) {
  Lanes longest = {}, unknown = {};
  const Number* row = part<Number>(tensor, steps, entry, head, 0);
  for (int64_t first = 0; first < rows; first += LANES, row += LANES * steps[2]) {
    Lanes sums[LANES];
    for (int64_t place = 0; place < LANES; ++place)
      sums[place] = first + place < rows ? squares_of(row + place * steps[2], width) : Lanes{};
    const Lanes found = totals_of(sums);
    longest = found > longest ? found : longest;
    unknown += found * 0.0f;  // NaN, once and for all
  }
  return total_of(unknown) == 0.0f ? highest_of(longest) : NAN;
}

// Writes which heads need no shift, by Cauchy and Schwarz; says whether all bounds are finite. Two numbers are read of each product.
template <class Number>
bool bounds_of(const Call& call, int64_t key_head) {
  const int64_t entry = key_head / call.kv_heads, kv_head = key_head % call.kv_heads, groups = call.heads / call.kv_heads;
  float longest = 0.0f, above = 0.0f;
  for (int64_t head = kv_head * groups; head < (kv_head + 1) * groups; ++head) {
    const float found = longest_of<Number>(call.query, call.query_steps, entry, head, call.queries, call.width);
    longest = found > longest || found != found ? found : longest;
  }
  for (int64_t head = 0; call.log_polarity != nullptr && head < call.heads; ++head)
    for (int64_t query = 0; query < (call.log_polarity_steps[1] ? call.queries : 1); ++query) {
      const float found = call.log_polarity[head * call.log_polarity_steps[0] + query * call.log_polarity_steps[1]];
      above = found > above || found != found ? found : above;
    }
  const float keys = longest_of<Number>(call.key, call.key_steps, entry, kv_head, call.keys, call.width);
  const float product = std::sqrt(keys) * std::sqrt(longest) * static_cast<float>(std::fabs(call.scale));
  const float capped = call.softcap > 0.0 ? std::fmin(product, static_cast<float>(call.softcap)) : product;
  const float bound = capped + above + static_cast<float>(call.bias_bound);
  call.plain[key_head] = bound < (call.additive == nullptr ? PLAIN_LIMIT : FADED_LIMIT);
  return std::isfinite(product) && std::isfinite(bound);
}

// Runs what depends on the kind of number, given one of it.
template <class Run>
auto by_kind(const Call& call, const Run& run) {
  if (call.kind == 0) return run(float());
  return call.kind == 1 ? run(Bfloat16()) : run(Float16());
}

bool find_bounds(const Call& call) {
  const int64_t units = call.batch * call.kv_heads;
  int finite = 1;
#pragma omp parallel for reduction(&& : finite) num_threads(call.threads) if (units > 1 && units * call.share > ALONE)
  for (int64_t unit = 0; unit < units; ++unit)
    finite = by_kind(call, [&](auto number) { return bounds_of<decltype(number)>(call, unit); }) && finite;
  return finite;
}

// What there is for queries without any key.
void clear_tile(const Call& call, const Tile& tile) {
  const int64_t number = call.kind ? 2 : 4, at = query_at(call, tile);
  std::memset(static_cast<char*>(call.output) + at * call.value_width * number, 0, tile.rows * call.value_width * number);
  if (!call.balanced)
    for (int64_t place = 0; place < tile.rows; ++place) call.lse[at + place] = INFINITY;
}

void clear_gradients(const Call& call, const Tile& tile) {
  const int64_t number = call.kind ? 2 : 4, at = query_at(call, tile);
  std::memset(static_cast<char*>(call.grad_query) + at * call.width * number, 0, tile.rows * call.width * number);
  if (call.grad_polarity != nullptr) std::memset(call.grad_polarity + at, 0, tile.rows * sizeof(float));
}

// If keys and values are packed, and apart, a thread takes all tiles of a key head, which it packs; else it takes any tile.
template <class Products>
void forward(const Call& call) {
  const int64_t groups = call.heads / call.kv_heads, blocks = (call.queries + call.rows - 1) / call.rows, tiles = groups * blocks;
  const bool apart = Products::PACKS && call.apart;
  const int64_t key_heads = call.batch * call.kv_heads, taken = apart ? tiles : 1, parts = tiles / taken;
#pragma omp parallel num_threads(call.threads) if (key_heads * tiles > 1 && key_heads * tiles * call.share > ALONE)
  {
    if (Products::PACKS && !apart) {
#pragma omp for schedule(dynamic)
      for (int64_t key_head = 0; key_head < key_heads; ++key_head) Products::begin(call, key_head, false);
    }
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < key_heads * parts; ++unit) {
      const int64_t key_head = unit / parts;
      if (apart) Products::begin(call, key_head, false);
      for (int64_t at = unit % parts * taken; at < (unit % parts + 1) * taken; ++at) {
        const int64_t head = key_head % call.kv_heads * groups + at / blocks;
        const Tile tile = tile_at<Products>(call, key_head / call.kv_heads, head, at % blocks * call.rows);
        if (tile.columns > 0)
          forward_tile<Products>(call, tile, {call.scratch + omp_get_thread_num() * call.share});
        else
          clear_tile(call, tile);
      }
    }
    Products::end();
  }
}

template <class Products>
void backward_head(const Call& call, int64_t entry, int64_t head) {
  for (int64_t first = 0; first < call.queries; first += call.rows) {
    const Tile tile = tile_at<Products>(call, entry, head, first);
    if (tile.columns > 0)
      backward_tile<Products>(call, tile, {call.scratch + omp_get_thread_num() * call.share});
    else
      clear_gradients(call, tile);
  }
}

// Whether no gradient of a bias or an additive mask is summed over a dimension.
bool is_apart(const Call& call, int64_t dim) {
  const bool bias = call.grad_bias == nullptr || call.grad_bias_steps[dim] != 0;
  return bias && (call.grad_additive == nullptr || call.grad_additive_steps[dim] != 0);
}

// A thread takes all queries of a key head, and all entries or key heads over which a gradient is summed.
template <class Products>
void backward(const Call& call) {
  const int64_t groups = call.heads / call.kv_heads, together = is_apart(call, 0) ? 1 : call.batch;
  const int64_t joined = is_apart(call, 1) ? 1 : call.kv_heads, parts = call.kv_heads / joined, units = call.batch / together * parts;
#pragma omp parallel num_threads(call.threads) if (units > 1 && units * call.share > ALONE)
  {
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < units; ++unit)
      for (int64_t entry = unit / parts * together; entry < (unit / parts + 1) * together; ++entry)
        for (int64_t kv_head = unit % parts * joined; kv_head < (unit % parts + 1) * joined; ++kv_head) {
          Products::begin(call, entry * call.kv_heads + kv_head, true);
          for (int64_t head = kv_head * groups; head < (kv_head + 1) * groups; ++head) backward_head<Products>(call, entry, head);
        }
    Products::end();
  }
}

}  // namespace

extern "C" {

// Both return 1, and compute nothing, if nothing finite bounds the scores.
int hf_tanhmax_forward(const Call* call) {
  if (call->partial != nullptr) return !by_kind(*call, [&](auto number) { return forward_few<decltype(number)>(*call); });
  if (!find_bounds(*call)) return 1;
  if (call->half)
    forward<Half>(*call);
  else
    by_kind(*call, [&](auto number) { return forward<Exact<decltype(number)>>(*call); });
  return 0;
}

int hf_tanhmax_backward(const Call* call) {
  if (!find_bounds(*call)) return 1;
  if (call->half)
    backward<Half>(*call);
  else
    by_kind(*call, [&](auto number) { return backward<Exact<decltype(number)>>(*call); });
  return 0;
}

// Whether products of bfloat16 numbers are computed here as such.
int hf_tanhmax_half() { return half_works(); }

}  // extern "C"
