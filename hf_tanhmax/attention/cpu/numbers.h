// Numbers: exponentials as vector code, sums whose order is fixed, and both formats of 16 bits. `build.py` puts this in front of all.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <type_traits>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t ALONE = 1 << 14;  // fewer scores are not worth a second thread
constexpr float LOG2_OF_E = 1.44269504088896341f;

constexpr float PLAIN_LIMIT = 60.0f;  // scores that are known to be below need no shift

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Numbers that are computed with at once: as many as a vector of the processor holds, as gcc takes larger ones apart number by number.
#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#elif defined(__AVX2__)
constexpr int64_t LANES = 8;
#else
constexpr int64_t LANES = 4;
#endif
typedef float Lanes __attribute__((vector_size(LANES * 4)));
typedef uint32_t LaneBits __attribute__((vector_size(LANES * 4)));
typedef uint16_t LaneHalves __attribute__((vector_size(LANES * 2)));

struct Each {
  float lanes[LANES];
};

struct EachBits {
  uint32_t lanes[LANES];
};

// What follows is for one number and for LANES of them. To is the bits of From, or the other way round.
template <class To, class From>
inline To as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline uint32_t bits_of(float number) { return as<uint32_t>(number); }
inline LaneBits bits_of(Lanes numbers) { return as<LaneBits>(numbers); }
inline float float_of(uint32_t bits) { return as<float>(bits); }
inline Lanes float_of(LaneBits bits) { return as<Lanes>(bits); }

template <class Float>
struct Nearest {
  Float whole;                          // the integer n
  decltype(bits_of(Float())) exponent;  // n, where a float32 number has its exponent; of hidden scores it may be any number: it wraps
};

template <class Float>
inline Nearest<Float> nearest(Float x) {
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, whose lowest bits are that number's
  const Float shifted = x + magic;
  return {shifted - magic, bits_of(shifted) << 23};
}

template <class Bits>
inline auto power_of_two(Bits exponent) {  // for |n| <= 126
  constexpr uint32_t one = 127u << 23;
  return float_of(one + exponent);
}

// 2^(n + f) is up (even + odd), and 2^-(n + f) is down (even - odd).
template <class Float>
struct Powers {
  Float up, down, even, odd;
};

// For |f| <= 1/2 and |n| <= 126. Minimax polynomials: relative errors 5e-11 (even) and 1.1e-8.
template <class Float, class Bits>
inline Powers<Float> powers_of_two(Float f, Bits exponent) {
  const Float g = f * f;
  const Float even = 1.0f + g * (0.240226510699f + g * (0.00961803768228f + g * 0.000154668887246f));
  const Float odd = f * (0.693147187958f + g * (0.0555035733248f + g * 0.00133907759805f));
  return {power_of_two(exponent), power_of_two(0u - exponent), even, odd};
}

inline float fused(float a, float b, float c) { return std::fma(a, b, c); }  // a b + c, rounded once

inline Lanes fused(Lanes a, float b, Lanes c) {
  Each from = as<Each>(a), found = as<Each>(c);
  for (int64_t lane = 0; lane < LANES; ++lane) found.lanes[lane] = std::fma(from.lanes[lane], b, found.lanes[lane]);
  return as<Lanes>(found);
}

template <class Float>
inline Float exponential(Float x) {  // e^x for x <= 0; 0 below -87; finite above 0, where only hidden keys are
  constexpr float low_part = 1.92596303e-8f;  // log2(e) - LOG2_OF_E
  const Float zero = {}, lowest = zero - 87.0f, below = x > zero ? zero : x, bounded = below < lowest ? lowest : below;
  const Nearest<Float> n = nearest<Float>(bounded * LOG2_OF_E);
  const Powers<Float> found = powers_of_two<Float>(fused(bounded, LOG2_OF_E, -n.whole) + bounded * low_part, n.exponent);
  return x < lowest ? zero : found.up * (found.even + found.odd);
}

struct Bfloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

inline float number_of(float number) { return number; }

inline float number_of(Bfloat16 number) { return float_of(static_cast<uint32_t>(number.bits) << 16); }

inline float number_of(Float16 number) {
  constexpr uint32_t rebias = 112u << 23;  // between the exponents of both formats
  const uint32_t magnitude = number.bits & 0x7fffu, sign = (number.bits & 0x8000u) << 16;
  const uint32_t finite = (magnitude << 13) + rebias, special = finite + rebias;  // special: infinities and NaN
  const uint32_t small = bits_of(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  return float_of(sign | (magnitude >= 0x7c00u ? special : magnitude < 0x400u ? small : finite));
}

// To the nearest number, of two the even one.
inline void narrow(float number, float& to) { to = number; }

inline uint32_t rounded(float number) {  // to bfloat16, in the upper half; number is not NaN
  const uint32_t bits = bits_of(number);
  return bits + 0x7fff + ((bits >> 16) & 1);
}

// As rounded, but of two the larger one: what a sum is made of need not be even.
inline uint32_t nearly(float number) { return bits_of(number) + 0x8000; }

inline void narrow(float number, Bfloat16& to) {
  to.bits = static_cast<uint16_t>(number == number ? rounded(number) >> 16 : 0x7fc0u);
}

inline void narrow(float number, Float16& to) {
  constexpr uint32_t rebias = 112u << 23;
  const uint32_t bits = bits_of(number), magnitude = bits & 0x7fffffffu;
  const uint32_t small = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);  // from 1/2 to 1 numbers are 2^-24 apart
  const uint32_t normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - rebias) >> 13;
  const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  to.bits = static_cast<uint16_t>((bits >> 16 & 0x8000u) | (magnitude >= 0x47800000u ? large : magnitude < 0x38800000u ? small : normal));
}

// A count of lanes that is known to be all of them.
typedef std::integral_constant<int64_t, LANES> Whole;

// What follows is not inlined: it is for the ends of rows, and takes a compiler long.
template <class Number>
__attribute__((noinline)) Lanes load_some(const Number* numbers, int64_t count) {
  Each found;
  for (int64_t lane = 0; lane < LANES; ++lane) found.lanes[lane] = lane < count ? number_of(numbers[lane]) : 0.0f;
  return as<Lanes>(found);
}

__attribute__((noinline)) void store_some(Lanes from, float* to, int64_t count) {
  const Each found = as<Each>(from);
  for (int64_t lane = 0; lane < LANES; ++lane)
    if (lane < count) to[lane] = found.lanes[lane];
}

inline Lanes lanes_of(const float* numbers) {
  Lanes found;
  std::memcpy(&found, numbers, sizeof found);
  return found;
}

inline Lanes lanes_of(const Bfloat16* numbers) {
#ifdef __AVX512F__  // what compilers make of the other way takes five instructions
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers)));
  return as<Lanes>(_mm512_slli_epi32(wide, 16));
#else
  LaneHalves halves;
  std::memcpy(&halves, numbers, sizeof halves);
  return float_of(__builtin_convertvector(halves, LaneBits) << 16);
#endif
}

inline Lanes lanes_of(const Float16* numbers) {
#ifdef __AVX512F__
  return as<Lanes>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers))));
#else
  Each found;
  for (int64_t lane = 0; lane < LANES; ++lane) found.lanes[lane] = number_of(numbers[lane]);
  return as<Lanes>(found);
#endif
}

// Numbers as lanes, which are 0 from `count` on.
template <class Number, class Count>
inline Lanes load(const Number* numbers, Count count) {
  if constexpr (std::is_same<Count, Whole>::value)
    return lanes_of(numbers);
  else
    return load_some(numbers, count);
}

template <class Count>
inline void store(Lanes from, float* to, Count count) {
  if constexpr (std::is_same<Count, Whole>::value)
    std::memcpy(to, &from, sizeof from);
  else
    store_some(from, to, count);
}

// visit(column, count) for the columns from low to high, of which it takes `count`.
template <class Visit>
inline void by_lanes(int64_t low, int64_t high, const Visit& visit) {
  for (; low + LANES <= high; low += LANES) visit(low, Whole());
  if (low < high) visit(low, high - low);
}

// Adds the upper half of some lanes to the lower half until four are left, and these in pairs.
inline float folded(float* lanes) {
  for (int64_t half = LANES / 2; half >= 4; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

__attribute__((always_inline)) inline float total_of(Lanes numbers) {
  Each each = as<Each>(numbers);
  return folded(each.lanes);
}

inline float highest_of(Lanes numbers) {
  float highest = numbers[0];
  for (int64_t lane = 1; lane < LANES; ++lane) highest = std::fmax(highest, numbers[lane]);
  return highest;
}

// The total of each of LANES sums, which are folded together: so the lanes of four and more are vectors.
inline Lanes totals_of(const Lanes* sums) {
  float lanes[LANES][LANES];
  Each found;
  std::memcpy(lanes, sums, sizeof lanes);
  for (int64_t half = LANES / 2; half >= 4; half /= 2)
    for (int64_t row = 0; row < LANES; ++row)
      for (int64_t lane = 0; lane < half; ++lane) lanes[row][lane] += lanes[row][lane + half];
  for (int64_t row = 0; row < LANES; ++row) found.lanes[row] = (lanes[row][0] + lanes[row][2]) + (lanes[row][1] + lanes[row][3]);
  return as<Lanes>(found);
}

// The sum of the lanes term(column, count), whose order is fixed.
template <class Term>
inline float sum_of(int64_t low, int64_t high, const Term& term) {
  Lanes sums = {};
  by_lanes(low, high, [&](int64_t column, auto count) { sums += term(column, count); });
  return total_of(sums);
}

}  // namespace
