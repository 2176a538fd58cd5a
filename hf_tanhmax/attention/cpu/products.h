
// Matrix products of a tile: in float32 by the BLAS of torch (Exact), or of bfloat16 numbers by oneDNN through torch (Half), which uses the
// tiles of AMX or the products of AVX512-BF16, as the processor has them. rows.h stands in front of this.

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
  const void *query, *key, *value, *grad_output;  // float32, or bfloat16 if half
  const float *log_polarity;                      // by head and query: with steps, as that of queries may be 0; null: all are of `signed`
  const int64_t *low, *high;                      // [positions]: where not null, the keys that a query may see at most
  const uint8_t *keep;                            // of the keys that a query may see, where not null, the ones where it is not 0
  uint8_t *plain;                                 // [batch, kv_heads], is written: whether scores need no shift
  const float *joint_lse, *joint_delta;           // null, or dense [batch, heads, queries]: L and D over more keys than these
  void *output;                                   // dense [batch, heads, queries, value_width], as query
  float *lse;                                     // if not balanced, dense [batch, heads, queries]
  void *grad_query;                               // dense, as query
  float *grad_key, *grad_value;                   // dense, zero at the start; if half, [batch, kv_heads, filled width, filled keys]
  float *grad_polarity;                           // null, or dense [batch, heads, queries]: of log p by row; if balanced, of p
  float *partial;                                 // null, or what parts of the keys leave of a few queries: few.h
  float *scratch;                                 // share numbers for each thread; tile_size of them hold the scores of a tile
  uint32_t *packed;                               // if half, packed_share pairs of numbers for each key head
  int64_t query_steps[3], key_steps[3], value_steps[3], grad_output_steps[3], keep_steps[4], log_polarity_steps[2];
  int64_t batch, heads, kv_heads, queries, keys, width, value_width, rows, threads, share, tile_size, packed_share;
  int64_t balanced, half, is_signed;
  int64_t causal, window, offset, position_step;  // a query's position: its number times the step, and the offset; window: 0 is none
  double scale;
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

inline int64_t query_at(const Call& call, const Tile& tile) {
  return (tile.entry * call.heads + tile.head) * call.queries + tile.first;
}

inline int64_t key_head_at(const Call& call, const Tile& tile) { return tile.entry * call.kv_heads + tile.kv_head; }

// C [m, n] = alpha A B + beta C, for rows as C has them: the library has columns where we have rows, so A and B change places.
void multiply(bool a_turned, bool b_turned, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t a_step, const float* b,
              int64_t b_step, float beta, float* c, int64_t c_step) {
  const char first = b_turned ? 'T' : 'N', second = a_turned ? 'T' : 'N';
  sgemm_(&first, &second, &n, &m, &k, &alpha, b, &b_step, a, &a_step, &beta, c, &c_step);
}

// The products of a tile: of its scores and weights [rows, columns], which lie step apart. own: scratch memory.
struct Exact {
  static constexpr int64_t WHOLE = 1;  // a tile's columns start and end at multiples of it
  const Call& call;
  const Tile& tile;
  float* own;
  const int64_t step;

  Exact(const Call& call, const Tile& tile, float* own) : call(call), tile(tile), own(own), step(tile.columns) {}

  const float* queries() const { return part<float>(call.query, call.query_steps, tile.entry, tile.head, tile.first); }
  const float* keys() const { return part<float>(call.key, call.key_steps, tile.entry, tile.kv_head, tile.low); }
  const float* values() const { return part<float>(call.value, call.value_steps, tile.entry, tile.kv_head, tile.low); }
  const float* grads() const { return part<float>(call.grad_output, call.grad_output_steps, tile.entry, tile.head, tile.first); }

  // What a thread does before its first tile, all of them together, and after its last.
  static void begin(const Call&, bool) {}
  static void end() {}

  // Scores in a unit; returns what they are to be multiplied by.
  float score(float unit, float* scores) const {
    multiply(false, true, tile.rows, tile.columns, call.width, unit, queries(), most(call.query_steps[2], call.width), keys(),
             most(call.key_steps[2], call.width), 0.0f, scores, step);
    return 1.0f;
  }

  // What is done with a row of weights once it is known, in the forward pass.
  void finish(int64_t, float*) const {}

  // The output; inverses, if not null: what its rows are multiplied by.
  void weigh_values(float* weights, const float* inverses) const {
    const int64_t width = call.value_width;
    float* const output = static_cast<float*>(call.output) + query_at(call, tile) * width;
    multiply(false, false, tile.rows, width, tile.columns, 1.0f, weights, step, values(), most(call.value_steps[2], width), 0.0f, output,
             most(width, 1));
    if (inverses == nullptr) return;
    for (int64_t place = 0; place < tile.rows; ++place)
      for (int64_t column = 0; column < width; ++column) output[place * width + column] *= inverses[place];
  }

  // The gradient of the weights. Where inverses say what weights are to be multiplied by, rows are multiplied by that too, here or later:
  // returns whether later. That of the values is added up.
  bool back_through_values(const float* weights, const float* inverses, float* found) const {
    const int64_t width = call.value_width, keys = key_head_at(call, tile) * call.keys + tile.low;
    const float* upstream = grads();
    int64_t upstream_step = most(call.grad_output_steps[2], width);
    if (inverses != nullptr) {
      for (int64_t place = 0; place < tile.rows; ++place)
        for (int64_t column = 0; column < width; ++column)
          own[place * width + column] = upstream[place * upstream_step + column] * inverses[place];
      upstream = own, upstream_step = most(width, 1);
    }
    multiply(true, false, tile.columns, width, tile.rows, 1.0f, weights, step, upstream, upstream_step, 1.0f,
             call.grad_value + keys * width, most(width, 1));
    multiply(false, true, tile.rows, tile.columns, width, 1.0f, upstream, upstream_step, values(), most(call.value_steps[2], width), 0.0f,
             found, step);
    return false;
  }

  // From the gradient of the scores to those of queries and keys.
  void back_to_inputs(float* found) const {
    const int64_t width = call.width, at = key_head_at(call, tile) * call.keys + tile.low;
    const float scale = static_cast<float>(call.scale);
    float* const own_grads = static_cast<float*>(call.grad_query) + query_at(call, tile) * width;
    multiply(false, false, tile.rows, width, tile.columns, scale, found, step, keys(), most(call.key_steps[2], width), 0.0f, own_grads,
             most(width, 1));
    multiply(true, false, tile.columns, width, tile.rows, scale, found, step, queries(), most(call.query_steps[2], width), 1.0f,
             call.grad_key + at * width, most(width, 1));
  }
};

}  // namespace
