// Vectors of 64-bit lanes, and on them what the sampling laws spend their time in: Philox, logarithm, exponential.
// Every operation is rounded once and in the order written here, so each width gives the same bits.
#pragma once
#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "../core/logarithm.h"
#include "../core/philox.h"
#include "vectors.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

#if defined(__AVX2__)
constexpr int kLanes64 = 4;
#else
constexpr int kLanes64 = 2;
#endif

using U64 = Vector<uint64_t, kLanes64>;
using F64 = Vector<double, kLanes64>;

static inline U64 splat(uint64_t x) { return U64{} + x; }
static inline F64 splat_f64(double x) { return F64{} + x; }

static inline U64 lane_numbers() {
#if defined(__AVX2__)
  return U64{0, 1, 2, 3};
#else
  return U64{0, 1};
#endif
}

// Products of the lanes' low halves; the high halves are ignored.
static inline U64 multiply_low_halves(U64 a, U64 b) {
#if defined(__AVX2__) && defined(HL_COMPILER_VECTORS)
  return reinterpret_cast<U64>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__) && defined(HL_COMPILER_VECTORS)
  return reinterpret_cast<U64>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return (a & splat(0xffffffffull)) * (b & splat(0xffffffffull));
#endif
}

constexpr int kPhiloxGroups = 2;  // side by side, to hide a multiply's latency
constexpr int kPhiloxValues = 2 * kLanes64 * kPhiloxGroups;  // 64-bit values that one call yields

// random_bits64(key, first ... first + kPhiloxValues - 1); `first` is even.
static inline void random_lanes(const RandomKey& key, uint64_t first, uint64_t* out) {
  U64 c0[kPhiloxGroups], c1[kPhiloxGroups], c2[kPhiloxGroups], c3[kPhiloxGroups];
  for (int g = 0; g < kPhiloxGroups; ++g) {
    c0[g] = splat((first >> 1) + static_cast<uint64_t>(g * kLanes64)) + lane_numbers();
    c1[g] = splat(key.minibatch);
    c2[g] = splat(key.epoch);
    c3[g] = splat(key.stream);
  }
  uint32_t k0 = static_cast<uint32_t>(key.seed);
  uint32_t k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int g = 0; g < kPhiloxGroups; ++g) {
      // High halves collect rubbish, which no multiplication reads and the end masks away.
      const U64 p0 = multiply_low_halves(c0[g], splat(0xD2511F53ull));
      const U64 p1 = multiply_low_halves(c2[g], splat(0xCD9E8D57ull));
      c0[g] = (p1 >> 32) ^ c1[g] ^ splat(k0);
      c2[g] = (p0 >> 32) ^ c3[g] ^ splat(k1);
      c1[g] = p1;
      c3[g] = p0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int g = 0; g < kPhiloxGroups; ++g) {
    const U64 even = (c0[g] & splat(0xffffffffull)) | (c1[g] << 32);
    const U64 odd = (c2[g] & splat(0xffffffffull)) | (c3[g] << 32);
    store_lanes(out + g * 2 * kLanes64, zip_low(even, odd));
    store_lanes(out + g * 2 * kLanes64 + kLanes64, zip_high(even, odd));
  }
}

// Exact for lanes below 2^53: no instruction set before AVX-512 converts 64-bit integers.
static inline F64 to_double(U64 n) {
  const U64 two52 = splat(0x4330000000000000ull);
  const F64 high = lanes_as<F64>((n >> 32) | two52) - splat_f64(0x1p52);
  const F64 low = lanes_as<F64>((n & splat(0xffffffffull)) | two52) - splat_f64(0x1p52);
  return high * splat_f64(0x1p32) + low;
}

static inline F64 log_lanes(F64 x, double shift) { return natural_logarithm<U64>(x, shift); }

// uniform_closed_open of each; `count` is a multiple of the lanes.
static inline void uniform_run(const uint64_t* bits, int64_t count, double* out) {
  for (int64_t i = 0; i < count; i += kLanes64) {
    store_lanes(out + i, to_double(load_lanes<U64>(bits + i) >> 11) * splat_f64(0x1p-53));
  }
}

// log(x) for positive normal numbers or NaN, which log_lanes does not know; `count` is a multiple of the lanes.
static inline void log_run(const double* x, int64_t count, double* out) {
  for (int64_t i = 0; i < count; i += kLanes64) {
    const F64 v = load_lanes<F64>(x + i);
    store_lanes(out + i, log_lanes(v, 0.0) + (v - v));
  }
}

// e^y for |y| <= 120, to 1e-11: more than a float needs, and the bound covers every finite float but 0.
static inline F64 exp_lanes(F64 y) {
  const double shifter = 0x1.8p52;  // rounds to an integer, which then stands in the low bits
  const F64 shifted = y * 1.44269504088896338700e+00 + shifter;
  const F64 n = shifted - shifter;
  const F64 r = (y - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  F64 e = splat_f64(1.0 / 3628800);
  e = e * r + 1.0 / 362880;
  e = e * r + 1.0 / 40320;
  e = e * r + 1.0 / 5040;
  e = e * r + 1.0 / 720;
  e = e * r + 1.0 / 120;
  e = e * r + 1.0 / 24;
  e = e * r + 1.0 / 6;
  e = e * r + 0.5;
  e = e * r + 1.0;
  e = e * r + 1.0;
  return lanes_as<F64>(lanes_as<U64>(e) + (lanes_as<U64>(shifted) << 52));
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
