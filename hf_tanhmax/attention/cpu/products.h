
// Matrix products of a tile: in float32 by the BLAS of torch (Exact, which widens numbers of 16 bits), or of bfloat16 numbers by oneDNN
// through torch (Half), which uses the tiles of AMX or the products of AVX512-BF16, as the processor has them. rows.h stands in front.

// Integers are passed as 64 bits: on the little-endian machines that this is built for, a library that wants 32 reads the lower half.
extern "C" void sgemm_(const char*, const char*, const int64_t*, const int64_t*, const int64_t*, const float*, const float*, const int64_t*,
                       const float*, const int64_t*, const float*, float*, const int64_t*);

// Of torch's own library, whose headers take longer to compile than this. Weak: null in a torch without it, and then there is no Half.
namespace c10 {
struct BFloat16;
}
namespace at::native::cpublas {
__attribute__((weak)) void brgemm(int64_t rows, int64_t columns, int64_t depth, int64_t a_step, int64_t b_step, int64_t c_step, bool add,
                                  const c10::BFloat16* a, const c10::BFloat16* b, float* c, bool pairs);
__attribute__((weak)) void brgemm_release(bool pairs);
}  // namespace at::native::cpublas

// Tensors [batch, heads or kv_heads, length, width] of dense rows; steps: the strides of the first three dimensions.
struct Call {
  const void *query, *key, *value, *grad_output;  // of one kind
  const float *log_polarity;                      // by head and query: with steps, as that of queries may be 0; null: all are of `signed`
  const int64_t *low, *high;                      // [positions]: where not null, the keys that a query may see at most
  const uint8_t *keep;                            // where not null, which keys a query may see: where it is not 0
  const float *bias, *additive;                   // null, or what is added to the scores, and the additive mask: steps may be 0
  uint8_t *plain;                                 // [batch, kv_heads], is written: whether scores need no shift
  const float *joint_lse, *joint_delta;           // null, or dense [batch, heads, queries]: L and D over more keys than these
  void *output;                                   // dense [batch, heads, queries, value_width], as query
  float *lse;                                     // if not balanced, dense [batch, heads, queries]
  void *grad_query;                               // dense, as query
  float *grad_key, *grad_value;                   // dense, zero at the start; if half, [batch, kv_heads, filled width, filled keys]
  float *grad_polarity;                           // null, or dense [batch, heads, queries]: of log p by row; if balanced, of p
  float *grad_bias, *grad_additive;               // null, or zero at the start: with steps, which are 0 where the gradient is a sum
  float *partial;                                 // null, or what parts of the keys leave of a few queries: few.h
  float *scratch;                                 // share numbers for each thread; tile_size of them hold the scores of a tile
  uint32_t *packed;                               // packed_share numbers for each thread if apart, else for each key head: packed_of
  int64_t query_steps[3], key_steps[3], value_steps[3], grad_output_steps[3], keep_steps[3], log_polarity_steps[2];
  int64_t bias_steps[4], additive_steps[4], grad_bias_steps[4], grad_additive_steps[4];
  int64_t batch, heads, kv_heads, queries, keys, width, value_width, rows, threads, share, tile_size, packed_share, apart;
  int64_t kind, half, balanced, is_signed;  // kind: 0 is float32, 1 bfloat16, 2 float16; half: products of bfloat16 numbers as such
  int64_t causal, window, offset, position_step;  // a query's position: its number times the step, and the offset; window: 0 is none
  int64_t seed, dropped;  // of 2^32 weights so many are dropped; 0: no dropout
  double scale, softcap, bias_bound;  // softcap: 0 is none; bias_bound: of |bias|
};

namespace {

struct Tile {
  int64_t entry, head, kv_head, first, rows, low, columns;
};

template <class Number>
const Number* part(const void* tensor, const int64_t* steps, int64_t entry, int64_t head, int64_t place) {
  return static_cast<const Number*>(tensor) + entry * steps[0] + head * steps[1] + place * steps[2];
}

struct Range {
  int64_t low, high;
};

// The keys that a query may see at most, half-open; `mask.py` says so too.
Range range_of(const Call& call, int64_t query) {
  const int64_t at = query * call.position_step, position = at + call.offset;
  int64_t low = 0, high = call.keys;
  if (call.causal) high = least(high, position + 1);
  if (call.window > 0) low = most(low, position - call.window + 1), high = least(high, position + call.window);
  if (call.low != nullptr) low = most(low, call.low[at]), high = least(high, call.high[at]);
  return {low, most(low, high)};
}

// Where keys and values of a key head are packed: where heads are many, in the memory of the thread that takes it, else in its own.
inline uint32_t* packed_of(const Call& call, int64_t key_head) {
  return call.packed + (call.apart ? omp_get_thread_num() : key_head) * call.packed_share;
}

inline int64_t query_at(const Call& call, const Tile& tile) {
  return (tile.entry * call.heads + tile.head) * call.queries + tile.first;
}

inline int64_t key_head_at(const Call& call, const Tile& tile) { return tile.entry * call.kv_heads + tile.kv_head; }

inline const float* added_at(const float* tensor, const int64_t* steps, const Tile& tile, int64_t place) {
  return tensor + tile.entry * steps[0] + tile.head * steps[1] + (tile.first + place) * steps[2] + tile.low * steps[3];
}

// C [m, n] = alpha A B + beta C, for rows as C has them: the library has columns where we have rows, so A and B change places.
void multiply(bool a_turned, bool b_turned, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t a_step, const float* b,
              int64_t b_step, float beta, float* c, int64_t c_step) {
  const char first = b_turned ? 'T' : 'N', second = a_turned ? 'T' : 'N';
  sgemm_(&first, &second, &n, &m, &k, &alpha, b, &b_step, a, &a_step, &beta, c, &c_step);
}

// The products of a tile: of its scores and weights [rows, columns], which lie step apart. own: scratch memory.
template <class Number>
struct Exact {
  static constexpr int64_t WHOLE = 1;  // a tile's columns start and end at multiples of it
  static constexpr bool WIDE = std::is_same<Number, float>::value;
  const Call& call;
  const Tile& tile;
  float *own, *sums;  // [rows, value_width]; if not wide, both [rows, the larger width]
  const int64_t step;

  Exact(const Call& call, const Tile& tile, float* own)
      : call(call), tile(tile), own(own), sums(own + call.rows * most(call.width, call.value_width)), step(tile.columns) {}

  struct Rows {
    const float* numbers;
    int64_t step;
  };

  // If not wide, keys and values lie widened in `packed`.
  Rows by_key(const void* tensor, const int64_t* steps, int64_t width, int64_t at) const {
    if constexpr (WIDE) return {part<float>(tensor, steps, tile.entry, tile.kv_head, tile.low), most(steps[2], width)};
    return {reinterpret_cast<float*>(packed_of(call, key_head_at(call, tile))) + at + tile.low * width, most(width, 1)};
  }
  Rows keys() const { return by_key(call.key, call.key_steps, call.width, 0); }
  Rows values() const { return by_key(call.value, call.value_steps, call.value_width, call.keys * call.width); }

  // Rows by query, in `own` unless they may stay where they lie; each times its factor where there are factors.
  Rows by_query(const void* tensor, const int64_t* steps, int64_t width, const float* factors = nullptr) const {
    const Number* from = part<Number>(tensor, steps, tile.entry, tile.head, tile.first);
    if constexpr (WIDE)
      if (factors == nullptr) return {from, most(steps[2], width)};
    for (int64_t place = 0; place < tile.rows; ++place, from += steps[2]) {
      const float factor = factors == nullptr ? 1.0f : factors[place];
      for (int64_t column = 0; column < width; ++column) own[place * width + column] = factor * number_of(from[column]);
    }
    return {own, most(width, 1)};
  }
  Rows queries() const { return by_query(call.query, call.query_steps, call.width); }

  static constexpr bool PACKS = !WIDE, ROUNDS = false;  // whether keys and values are copied, and weights rounded
  // What a thread does before the tiles of a key head, and after its last.
  static void begin(const Call& call, int64_t key_head, bool) {
    if (WIDE) return;
    const int64_t entry = key_head / call.kv_heads, head = key_head % call.kv_heads;
    float* const values = widen(part<Number>(call.key, call.key_steps, entry, head, 0), call.key_steps[2], call.keys, call.width,
                                reinterpret_cast<float*>(packed_of(call, key_head)));
    widen(part<Number>(call.value, call.value_steps, entry, head, 0), call.value_steps[2], call.keys, call.value_width, values);
  }
  static void end() {}

  static float* widen(const Number* from, int64_t from_step, int64_t length, int64_t width, float* to) {
    for (int64_t place = 0; place < length; ++place, from += from_step, to += width)
      by_lanes(0, width, [=](int64_t column, auto count) { store(load(from + column, count), to + column, count); });
    return to;
  }

  // Scores in a unit; returns what they are to be multiplied by.
  float score(float unit, float* scores) const {
    const Rows queries = this->queries(), keys = this->keys();
    multiply(false, true, tile.rows, tile.columns, call.width, unit, queries.numbers, queries.step, keys.numbers, keys.step, 0.0f, scores,
             step);
    return 1.0f;
  }

  // What is done with a row of weights once it is known, in the forward pass.
  void finish(int64_t, float*) const {}

  // A result by query: the tile's product with rows by key, times a factor, and its rows times theirs where there are factors.
  void to_rows(const float* tile_numbers, Rows by_key, int64_t width, float factor, const float* factors, void* tensor) const {
    Number* const to = static_cast<Number*>(tensor) + query_at(call, tile) * width;
    float* product = sums;
    if constexpr (WIDE) product = to;
    multiply(false, false, tile.rows, width, tile.columns, factor, tile_numbers, step, by_key.numbers, by_key.step, 0.0f, product,
             most(width, 1));
    if (WIDE && factors == nullptr) return;
    for (int64_t place = 0; place < tile.rows; ++place) {
      const float own_factor = factors == nullptr ? 1.0f : factors[place];
      for (int64_t column = 0; column < width; ++column) narrow(product[place * width + column] * own_factor, to[place * width + column]);
    }
  }

  // The output; inverses, if not null: what its rows are multiplied by.
  void weigh_values(float* weights, const float* inverses) const {
    to_rows(weights, values(), call.value_width, 1.0f, inverses, call.output);
  }

  // The gradient of the weights. Where inverses say what weights are to be multiplied by, rows are multiplied by that too, here or later:
  // returns whether later. That of the values is added up. weights may lie where the gradient is written.
  bool back_through_values(const float* weights, const float* inverses, float* found) const {
    const int64_t width = call.value_width, keys = key_head_at(call, tile) * call.keys + tile.low;
    const Rows upstream = by_query(call.grad_output, call.grad_output_steps, width, inverses), values = this->values();
    multiply(true, false, tile.columns, width, tile.rows, 1.0f, weights, step, upstream.numbers, upstream.step, 1.0f,
             call.grad_value + keys * width, most(width, 1));
    multiply(false, true, tile.rows, tile.columns, width, 1.0f, upstream.numbers, upstream.step, values.numbers, values.step, 0.0f, found,
             step);
    return false;
  }

  // From the gradient of the scores to those of queries and keys.
  void back_to_inputs(float* found) const {
    const int64_t width = call.width, at = key_head_at(call, tile) * call.keys + tile.low;
    const float scale = static_cast<float>(call.scale);
    to_rows(found, keys(), width, scale, nullptr, call.grad_query);
    const Rows queries = this->queries();
    multiply(true, false, tile.columns, width, tile.rows, scale, found, step, queries.numbers, queries.step, 1.0f,
             call.grad_key + at * width, most(width, 1));
  }
};

}  // namespace
