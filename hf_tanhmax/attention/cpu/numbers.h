// Numbers: exponentials as vector code, sums whose order is fixed, and both formats of 16 bits. `build.py` puts this in front of all.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <type_traits>

namespace {

constexpr int64_t LANES = 16;       // independent sums, so that loops become vector code without reordering any sum
constexpr int64_t ALONE = 1 << 14;  // fewer scores are not worth a second thread
constexpr float LOG2_OF_E = 1.44269504088896341f;

constexpr float PLAIN_LIMIT = 60.0f;  // scores that are known to be below need no shift

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

struct Split {
  float even, odd;
  uint32_t whole;  // of hidden scores it may be any number: it wraps
};

// 2^(whole + f) = 2^whole (even + odd) for |f| <= 1/2, and 2^-f = even - odd. Minimax polynomials: relative errors 5e-11 (even) and 1.1e-8.
inline Split split(float f, float whole) {
  const float g = f * f;
  const float even = 1.0f + g * (0.240226510699f + g * (0.00961803768228f + g * 0.000154668887246f));
  const float odd = f * (0.693147187958f + g * (0.0555035733248f + g * 0.00133907759805f));
  return {even, odd, static_cast<uint32_t>(static_cast<int32_t>(whole))};
}

inline float power_of_two(uint32_t n) {  // for -126 <= n <= 127
  const uint32_t bits = (n + 127u) << 23;
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

inline uint32_t bits_of(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float found;
  std::memcpy(&found, &bits, sizeof found);
  return found;
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

// visit(column, lane) for the columns from low to high, in lanes.
template <class Visit>
inline void by_lanes(int64_t low, int64_t high, const Visit& visit) {
  int64_t column = low;
  for (; column + LANES <= high; column += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) visit(column + lane, lane);
  for (; column < high; ++column) visit(column, 0);
}

float total_of(const float* sums) {
  float halves[LANES / 2], quarters[LANES / 4];
  for (int64_t lane = 0; lane < LANES / 2; ++lane) halves[lane] = sums[lane] + sums[lane + LANES / 2];
  for (int64_t lane = 0; lane < LANES / 4; ++lane) quarters[lane] = halves[lane] + halves[lane + LANES / 4];
  return (quarters[0] + quarters[2]) + (quarters[1] + quarters[3]);
}

}  // namespace
