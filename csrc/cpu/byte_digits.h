// float32 as whole numbers of three signed bytes: x is nearly q times a power of two, and q = d0 + 256 d1 + 65536 d2. The
// power makes the largest of the numbers that share it 23 bits long. Products of digits with bytes and their sums in int32
// are exact, whatever their order, so that every instruction set gives the same bits; AVX-512 VNNI multiplies 64 bytes in
// the time in which floats make 16 products.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "isa_namespace.h"

#if defined(HL_BYTE_PRODUCTS)
#include <immintrin.h>
#endif

namespace hotloop {

constexpr int64_t kByteGroup = 4;  // neighbouring bytes that the processor multiplies and adds up at once
constexpr int64_t kByteDigits = 3;
// Above it the sum of one digit's products may leave int32: 255 x 128 x terms.
constexpr int64_t kByteTerms = (int64_t{1} << 31) / (255 * 128);

namespace HL_ISA_NAMESPACE {

constexpr uint32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;

// The bits of |x|, which order as the magnitudes do, with inf and NaN above all numbers.
static inline int32_t magnitude_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<int32_t>(bits & kMagnitude);
}

static inline bool is_finite_magnitude(int32_t bits) { return static_cast<uint32_t>(bits) < kInfinity; }

static inline float power_of_two(int exponent) {
  const uint32_t bits = static_cast<uint32_t>(exponent + 127) << 23;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// The exponent that brings the largest, given by its bits and finite, between 2^22 and 2^23, or one less where its digits
// would need a 24th bit. What is below the smallest normal number is cut.
static inline int digit_exponent(int32_t largest) {
  constexpr float kMost = 127 * 65536 + 127 * 256 + 127;
  int exponent = 149 - (largest >> 23);
  if (exponent > 126) exponent = 126;
  float magnitude;
  std::memcpy(&magnitude, &largest, sizeof magnitude);
  return magnitude * power_of_two(exponent) > kMost - 0.5f ? exponent - 1 : exponent;
}

// The lowest digit stays in q's lowest byte; what is returned is the rest: a digit of -1 stands for 255 less one of the next.
static inline int32_t next_digits(int32_t q) { return (q + 128) >> 8; }

// The sum of which the digits' sums are parts, in units of `unit` / 255.
static inline float joined_sums(int32_t s0, int32_t s1, int32_t s2, float unit) {
  const float low = static_cast<float>(s1) * 256.0f + static_cast<float>(s0);
  return (static_cast<float>(s2) * 65536.0f + low) * (1.0f / 255.0f) * unit;
}

#if defined(HL_BYTE_PRODUCTS)

// Sums must stay in registers: without their loops unrolled GCC keeps the array in memory.
#if defined(__clang__)
#define HL_UNROLL(times) _Pragma("unroll")
#elif defined(__GNUC__)
#define HL_PRAGMA(words) _Pragma(#words)
#define HL_UNROLL(times) HL_PRAGMA(GCC unroll times)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 says it of its own headers
#else
#define HL_UNROLL(times)
#endif

// The instruction by name: from the intrinsic GCC 12 makes copies of the sums around every product.
static inline void add_products(__m512i& sums, __m512i bytes, __m512i digits) {
#if defined(__GNUC__) && !defined(__clang__)
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(bytes), "v"(digits));
#else
  sums = _mm512_dpbusd_epi32(sums, bytes, digits);
#endif
}

static inline __m512i next_digits(__m512i q) {
  return _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
}

static inline __m512i four_bytes_everywhere(const void* from) {
  int32_t four;
  std::memcpy(&four, from, sizeof four);
  return _mm512_set1_epi32(four);
}

#endif

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
