
// Products of bfloat16 numbers with sums in float32. A second factor lies in panels of 64 columns, in which two rows make one row of pairs,
// as the instructions want it: keys and values are packed so once for each key head, weights and gradients once for each tile.

#include <exception>

namespace {

constexpr int64_t PANEL = 64, DEPTH = 256;  // columns of a panel; rows that one product sums over

inline int64_t filled(int64_t count, int64_t whole) { return (count + whole - 1) / whole * whole; }

inline uint32_t pair(float first, float second) { return (rounded(first) >> 16) | (rounded(second) & 0xffff0000u); }

inline uint32_t pair(uint16_t first, uint16_t second) { return first | static_cast<uint32_t>(second) << 16; }

constexpr int64_t BLOCK = 16;

// Turns a block [BLOCK, BLOCK]: to interleave its halves is to rotate the bits of a place by one; once for each bit of a side turns it.
template <class Number>
inline void turn_block(Number* block) {
  Number other[BLOCK * BLOCK];
  const auto interleave = [](const Number* from, Number* to) {
    const Number* const second = from + BLOCK * BLOCK / 2;
    for (int64_t place = 0; place < BLOCK * BLOCK / 2; ++place) to[2 * place] = from[place], to[2 * place + 1] = second[place];
  };
  interleave(block, other), interleave(other, block), interleave(block, other), interleave(other, block);
}

// The transpose of [rows, columns], rows a multiple of BLOCK, in to [columns, to_step]. There are `given` rows, `step` bytes apart and
// `length` bytes long; the others, and what is missing in a row, are 0.
template <class Number>
void turn(const void* from, int64_t step, int64_t given, int64_t length, Number* to, int64_t to_step, int64_t rows, int64_t columns) {
  constexpr int64_t line = BLOCK * sizeof(Number);
  Number block[BLOCK * BLOCK];
  for (int64_t row = 0; row < rows; row += BLOCK)
    for (int64_t column = 0; column < columns; column += BLOCK) {
      const int64_t start = column * sizeof(Number), there = most(0, least(BLOCK, given - row));
      const char* const source = static_cast<const char*>(from) + row * step + start;
      if (there == BLOCK && length - start >= line) {
        for (int64_t place = 0; place < BLOCK; ++place) std::memcpy(block + place * BLOCK, source + place * step, line);
      } else {
        std::memset(block, 0, sizeof block);
        for (int64_t place = 0; place < there; ++place)
          std::memcpy(block + place * BLOCK, source + place * step, most(0, least(line, length - start)));
      }
      turn_block(block);
      for (int64_t place = 0; place < least(BLOCK, columns - column); ++place)
        std::memcpy(to + (column + place) * to_step + row, block + place * BLOCK, line);
    }
}

// Sizes of a call, filled up to what products want.
struct Sizes {
  int64_t keys, width, value_width, rows, step;  // step: from one row of scores to the next, no power of two
  explicit Sizes(const Call& call)
      : keys(filled(call.keys, PANEL)), width(filled(call.width, 16)), value_width(filled(call.value_width, 16)),
        rows(filled(call.rows, 16)), step(keys + 16) {}
  int64_t turned(int64_t width) const { return keys * width / 2; }                // pairs of a packed transpose [width, keys]
  int64_t upright(int64_t width) const { return filled(width, PANEL) * keys / 2; }  // pairs of packed [keys, width]
};

// The transpose of [keys, width] in panels of keys: [filled keys / 64, filled width / 2, 64].
void pack_turned(const uint16_t* from, int64_t step, int64_t keys, int64_t width, const Sizes& sizes, uint32_t* to) {
  const int64_t pairs = filled(width, 16) / 2;
  for (int64_t key = 0; key < sizes.keys; key += PANEL, to += pairs * PANEL)
    turn(from + key * step, step * sizeof(uint16_t), keys - key, width * sizeof(uint16_t), to, PANEL, PANEL, pairs);
}

// [keys, width] in panels of columns: [filled width / 64, filled keys / 2, 64].
void pack_upright(const uint16_t* from, int64_t step, int64_t keys, int64_t width, const Sizes& sizes, uint32_t* to) {
  static const uint16_t zeros[PANEL] = {};
  for (int64_t start = 0; start < width; start += PANEL) {
    const int64_t columns = least(PANEL, width - start);
    for (int64_t key = 0; key < sizes.keys; key += 2, to += PANEL) {
      const uint16_t* const first = key < keys ? from + key * step + start : zeros;
      const uint16_t* const second = key + 1 < keys ? from + (key + 1) * step + start : zeros;
      for (int64_t column = 0; column < columns; ++column) to[column] = pair(first[column], second[column]);
      for (int64_t column = columns; column < PANEL; ++column) to[column] = 0;
    }
  }
}

// Where the packed keys and values of a key head lie.
struct Packed {
  uint32_t *keys_turned, *values, *values_turned, *keys;  // the last two in the backward pass, values in the forward pass
  Packed(const Call& call, const Sizes& sizes, int64_t key_head) {
    keys_turned = packed_of(call, key_head);
    values = values_turned = keys_turned + sizes.turned(sizes.width);
    keys = values_turned + sizes.turned(sizes.value_width);
  }
};

// Packs a key head; what is filled up is zero.
void pack_key_head(const Call& call, int64_t key_head, bool backward) {
  const Sizes sizes(call);
  const Packed packed(call, sizes, key_head);
  const int64_t entry = key_head / call.kv_heads, head = key_head % call.kv_heads, key_step = call.key_steps[2], step = call.value_steps[2];
  const uint16_t* key = part<uint16_t>(call.key, call.key_steps, entry, head, 0);
  const uint16_t* value = part<uint16_t>(call.value, call.value_steps, entry, head, 0);
  pack_turned(key, key_step, call.keys, call.width, sizes, packed.keys_turned);
  if (!backward) return pack_upright(value, step, call.keys, call.value_width, sizes, packed.values);
  pack_turned(value, step, call.keys, call.value_width, sizes, packed.values_turned);
  pack_upright(key, key_step, call.keys, call.width, sizes, packed.keys);
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
  static constexpr bool PACKS = true, ROUNDS = true;
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

  static void begin(const Call& call, int64_t key_head, bool backward) { pack_key_head(call, key_head, backward); }
  static void end() { at::native::cpublas::brgemm_release(true); }

  // Rows of query or of the gradient of the output, filled up with zeros, and if wanted their transpose.
  void take(const void* tensor, const int64_t* steps, int64_t width, int64_t filled_width, bool turned) const {
    const uint16_t* from = part<uint16_t>(tensor, steps, tile.entry, tile.head, tile.first);
    uint16_t* to = queries;
    for (int64_t place = 0; place < tile.rows; ++place, to += filled_width) {
      std::memcpy(to, from + place * steps[2], width * sizeof(uint16_t));
      for (int64_t column = width; column < filled_width; ++column) to[column] = 0;
    }
    std::memset(to, 0, (rows - tile.rows) * filled_width * sizeof(uint16_t));
    if (turned) turn(from, steps[2] * sizeof(uint16_t), tile.rows, width * sizeof(uint16_t), queries_turned, rows, rows, filled_width);
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
    for (int64_t column = 0; column < tile.columns; ++column) to[column] = static_cast<uint16_t>(nearly(factor * from[column]) >> 16);
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
