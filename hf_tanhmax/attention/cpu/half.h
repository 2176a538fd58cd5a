
// Products of bfloat16 numbers with sums in float32. A second factor lies in panels of 64 columns, in which two rows make one row of pairs,
// as the instructions want it: keys and values are packed so once for each key head, weights and gradients once for each tile.

#include <exception>

namespace {

constexpr int64_t PANEL = 64, DEPTH = 256;  // columns of a panel; rows that one product sums over

inline int64_t filled(int64_t count, int64_t whole) { return (count + whole - 1) / whole * whole; }

inline uint32_t pair(float first, float second) { return (rounded(first) >> 16) | (rounded(second) & 0xffff0000u); }

inline uint32_t pair(uint16_t first, uint16_t second) { return first | static_cast<uint32_t>(second) << 16; }

// Sizes of a call, filled up to what products want.
struct Sizes {
  int64_t keys, width, value_width, rows, step;  // step: from one row of scores to the next, no power of two
  explicit Sizes(const Call& call)
      : keys(filled(call.keys, PANEL)), width(filled(call.width, 16)), value_width(filled(call.value_width, 16)),
        rows(filled(call.rows, 16)), step(keys + 16) {}
  int64_t turned(int64_t width) const { return keys * width / 2; }                // pairs of a packed transpose [width, keys]
  int64_t upright(int64_t width) const { return filled(width, PANEL) * keys / 2; }  // pairs of packed [keys, width]
};

// The transpose of [keys, width] in panels of keys: [keys / 64, width / 2, 64].
void pack_turned(const uint16_t* from, int64_t step, int64_t keys, int64_t width, int64_t filled_width, uint32_t* to) {
  for (int64_t key = 0; key < keys; ++key) {
    uint32_t* const panel = to + key / PANEL * (filled_width / 2) * PANEL + key % PANEL;
    for (int64_t column = 0; column + 1 < width; column += 2) panel[column / 2 * PANEL] = pair(from[column], from[column + 1]);
    if (width % 2) panel[width / 2 * PANEL] = from[width - 1];
    from += step;
  }
}

// [keys, width] in panels of columns: [width / 64, keys / 2, 64].
void pack_upright(const uint16_t* from, int64_t step, int64_t keys, int64_t width, int64_t filled_keys, uint32_t* to) {
  for (int64_t start = 0; start < width; start += PANEL, to += filled_keys / 2 * PANEL)
    for (int64_t key = 0; key < keys; key += 2) {
      const uint16_t *first = from + key * step + start, *second = first + step;
      uint32_t* const row = to + key / 2 * PANEL;
      const int64_t columns = least(PANEL, width - start);
      if (key + 1 < keys)
        for (int64_t column = 0; column < columns; ++column) row[column] = pair(first[column], second[column]);
      else
        for (int64_t column = 0; column < columns; ++column) row[column] = first[column];
    }
}

// Where the packed keys and values of a key head lie.
struct Packed {
  uint32_t *keys_turned, *values, *values_turned, *keys;  // the last two in the backward pass, values in the forward pass
  Packed(const Call& call, const Sizes& sizes, int64_t key_head) {
    keys_turned = call.packed + key_head * call.packed_share;
    values = values_turned = keys_turned + sizes.turned(sizes.width);
    keys = values_turned + sizes.turned(sizes.value_width);
  }
};

// Packs a key head; what is filled up is zero.
void pack_key_head(const Call& call, int64_t key_head, bool backward) {
  const Sizes sizes(call);
  const Packed packed(call, sizes, key_head);
  std::memset(packed.keys_turned, 0, call.packed_share * sizeof(uint32_t));
  const int64_t entry = key_head / call.kv_heads, head = key_head % call.kv_heads;
  const uint16_t* key = part<uint16_t>(call.key, call.key_steps, entry, head, 0);
  const uint16_t* value = part<uint16_t>(call.value, call.value_steps, entry, head, 0);
  pack_turned(key, call.key_steps[2], call.keys, call.width, sizes.width, packed.keys_turned);
  if (!backward) return pack_upright(value, call.value_steps[2], call.keys, call.value_width, sizes.keys, packed.values);
  pack_turned(value, call.value_steps[2], call.keys, call.value_width, sizes.value_width, packed.values_turned);
  pack_upright(key, call.key_steps[2], call.keys, call.width, sizes.keys, packed.keys);
}

void multiply_half(int64_t rows, int64_t columns, int64_t depth, const uint16_t* a, int64_t a_step, const uint32_t* b, float* c,
                   int64_t c_step, bool add) {
  at::native::cpublas::brgemm(rows, columns, depth, a_step, PANEL, c_step, add, reinterpret_cast<const c10::BFloat16*>(a),
                              reinterpret_cast<const c10::BFloat16*>(b), c, true);
}

// C [rows, filled width] = A [rows, keys] B, which is packed upright: columns of A start at key `low`.
void multiply_upright(int64_t rows, int64_t width, int64_t keys, const uint16_t* a, int64_t a_step, const uint32_t* b, int64_t low,
                      int64_t filled_keys, float* c) {
  for (int64_t start = 0; start < width; start += PANEL, b += filled_keys / 2 * PANEL)
    for (int64_t key = 0; key < keys; key += DEPTH)
      multiply_half(rows, least(PANEL, width - start), least(DEPTH, keys - key), a + key, a_step, b + (low + key) / 2 * PANEL, c + start,
                    width, key > 0);
}

// C [rows, columns] (+)= A [rows, depth] B [depth, columns], which is packed in panels of columns.
void multiply_panels(int64_t rows, int64_t columns, int64_t depth, const uint16_t* a, const uint32_t* b, float* c, int64_t c_step,
                     bool add) {
  for (int64_t column = 0; column < columns; column += PANEL, b += depth / 2 * PANEL)
    multiply_half(rows, PANEL, depth, a, depth, b, c + column, c_step, add);
}

// As Exact.
struct Half {
  static constexpr int64_t WHOLE = PANEL;
  const Call& call;
  const Tile& tile;
  const Sizes sizes;
  const Packed packed;
  const int64_t step, rows;
  float* sums;                         // [rows, the larger filled width]
  uint16_t *queries, *queries_turned;  // [rows, filled width] and its transpose, of queries or of the gradient of their output
  uint32_t* pairs;                     // in the backward pass, [columns / 64, rows / 2, 64]

  Half(const Call& call, const Tile& tile, float* own)
      : call(call), tile(tile), sizes(call), packed(call, sizes, key_head_at(call, tile)), step(sizes.step), rows(filled(tile.rows, 16)) {
    const int64_t size = sizes.rows * most(sizes.width, sizes.value_width);
    sums = own;
    queries = reinterpret_cast<uint16_t*>(own + size);
    queries_turned = queries + size;
    pairs = reinterpret_cast<uint32_t*>(queries_turned + size);
  }

  static void begin(const Call& call, bool backward) {
#pragma omp for schedule(dynamic)
    for (int64_t key_head = 0; key_head < call.batch * call.kv_heads; ++key_head) pack_key_head(call, key_head, backward);
  }
  static void end() { at::native::cpublas::brgemm_release(true); }

  // Rows of query or of the gradient of the output, filled up with zeros, and if wanted their transpose.
  void take(const void* tensor, const int64_t* steps, int64_t width, int64_t filled_width, bool turned) const {
    const uint16_t* from = part<uint16_t>(tensor, steps, tile.entry, tile.head, tile.first);
    std::memset(queries, 0, rows * filled_width * sizeof(uint16_t));
    for (int64_t place = 0; place < tile.rows; ++place)
      std::memcpy(queries + place * filled_width, from + place * steps[2], width * sizeof(uint16_t));
    if (!turned) return;
    for (int64_t column = 0; column < filled_width; ++column)
      for (int64_t place = 0; place < rows; ++place) queries_turned[column * rows + place] = queries[place * filled_width + column];
  }

  float score(float unit, float* scores) const {
    take(call.query, call.query_steps, call.width, sizes.width, false);
    const uint32_t* keys = packed.keys_turned + tile.low / PANEL * (sizes.width / 2) * PANEL;
    multiply_panels(rows, tile.columns, sizes.width, queries, keys, scores, step, false);
    return unit;
  }

  // A row of float32 numbers becomes one of bfloat16 numbers, in place.
  void narrow(int64_t place, float factor, float* numbers) const {
    const float* from = numbers + place * step;
    uint16_t* to = reinterpret_cast<uint16_t*>(numbers + place * step);
    for (int64_t column = 0; column < tile.columns; ++column) to[column] = static_cast<uint16_t>(rounded(factor * from[column]) >> 16);
  }

  // What is done with a row of weights once it is known, in the forward pass.
  void finish(int64_t place, float* weights) const { narrow(place, 1.0f, weights); }

  // [rows, columns] times factor, and each row times its own where there are factors, in panels of columns; 0 after the tile's rows.
  void pack(const float* numbers, float factor, const float* factors) const {
    static const float zeros[PANEL] = {};
    uint32_t* to = pairs;
    for (int64_t start = 0; start < tile.columns; start += PANEL)
      for (int64_t place = 0; place < rows; place += 2, to += PANEL) {
        const bool one = place < tile.rows, two = place + 1 < tile.rows;
        const float *first = one ? numbers + place * step + start : zeros, *second = two ? numbers + (place + 1) * step + start : zeros;
        const float own = one && factors != nullptr ? factor * factors[place] : factor;
        const float next = two && factors != nullptr ? factor * factors[place + 1] : factor;
        for (int64_t column = 0; column < PANEL; ++column) to[column] = pair(own * first[column], next * second[column]);
      }
  }

  // The first columns of sums as rows of bfloat16 numbers.
  void write(void* tensor, int64_t width, int64_t filled_width, const float* factors) const {
    uint16_t* const to = static_cast<uint16_t*>(tensor) + query_at(call, tile) * width;
    for (int64_t place = 0; place < tile.rows; ++place) {
      const float factor = factors == nullptr ? 1.0f : factors[place];
      for (int64_t column = 0; column < width; ++column)
        to[place * width + column] = static_cast<uint16_t>(rounded(factor * sums[place * filled_width + column]) >> 16);
    }
  }

  void weigh_values(float* weights, const float* inverses) const {
    multiply_upright(rows, sizes.value_width, tile.columns, reinterpret_cast<const uint16_t*>(weights), 2 * step, packed.values, tile.low,
                     sizes.keys, sums);
    write(call.output, call.value_width, sizes.value_width, inverses);
  }

  bool back_through_values(const float* weights, const float* inverses, float* found) const {
    take(call.grad_output, call.grad_output_steps, call.value_width, sizes.value_width, true);
    pack(weights, 1.0f, inverses);
    add_by_key(call.grad_value, sizes.value_width);
    const uint32_t* values = packed.values_turned + tile.low / PANEL * (sizes.value_width / 2) * PANEL;
    multiply_panels(rows, tile.columns, sizes.value_width, queries, values, found, step, false);
    return inverses != nullptr;
  }

  void back_to_inputs(float* found) const {
    const float scale = static_cast<float>(call.scale);
    take(call.query, call.query_steps, call.width, sizes.width, true);
    pack(found, scale, nullptr);
    add_by_key(call.grad_key, sizes.width);
    for (int64_t place = 0; place < rows; ++place) narrow(place, scale, found);
    multiply_upright(rows, sizes.width, tile.columns, reinterpret_cast<const uint16_t*>(found), 2 * step, packed.keys, tile.low, sizes.keys,
                     sums);
    write(call.grad_query, call.width, sizes.width, nullptr);
  }

  // Adds the product of the transposed queries, or of what stands for them, and the pairs to a gradient [filled width, filled keys].
  void add_by_key(float* gradient, int64_t width) const {
    float* const to = gradient + key_head_at(call, tile) * width * sizes.keys + tile.low;
    multiply_panels(width, tile.columns, rows, queries_turned, pairs, to, sizes.keys, true);
  }
};

// Whether the processor multiplies bfloat16 numbers itself, and oneDNN says so too and is right: an emulated processor may lie.
bool half_works() {
#ifdef __x86_64__
  if (!__builtin_cpu_supports("avx512bf16")) return false;  // AMX comes with it
  if (at::native::cpublas::brgemm == nullptr || at::native::cpublas::brgemm_release == nullptr) return false;
  uint16_t ones[16 * 32];
  uint32_t halves[16 * PANEL];
  float found[16 * PANEL];
  for (uint16_t& one : ones) one = 0x3f80;
  for (uint32_t& both : halves) both = 0x3f003f00;
  try {
    multiply_half(16, PANEL, 32, ones, 32, halves, found, PANEL, false);
    at::native::cpublas::brgemm_release(true);
  } catch (const std::exception&) {
    return false;
  }
  for (const float sum : found)
    if (sum != 16.0f) return false;
  return true;
#else
  return false;
#endif
}

}  // namespace
