// The serial part of the recurrence engine: kRows chains y[t] = a[t] * y[t+-1] + b[t] over a tile of coefficients.
//
// Rows are the lanes of two vectors, side by side because one would wait for its own multiply and add. The tile holds
// rows along time, so 4 steps of 8 rows are turned by 8 shuffles on the way in and 8 on the way out: 0.75 an element,
// where scalar chains pay two loads and a store. The order of the operations is that of the scalar chains.
#pragma once
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "isa_namespace.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

constexpr int64_t kRows = 16;

// kCut: a coefficient of exactly zero cuts the trace, so that NaN or inf beyond a boundary cannot leak (0 * NaN
// is NaN). Without it the plain formula holds.
template <bool kCut, class T>
static inline T affine(T a, T y, T b) {
  T carried = a * y;
  if (kCut) carried = a != T(0) ? carried : T(0);
  return b + carried;
}

// 8 rows, in scalar chains: enough to hide the latency of multiply and add (4 + 4 cycles). `y` may be `b`.
template <bool kCut, bool kForwards, class T>
static inline void scan_eight_rows(const T* a, const T* b, T* y, int64_t stride, int64_t begin, int64_t end,
                                   T* carry) {
  T c[8];
  for (int r = 0; r < 8; ++r) c[r] = carry[r];
  for (int64_t i = begin; i < end; ++i) {
    const int64_t t = kForwards ? i : end - 1 - (i - begin);
    for (int r = 0; r < 8; ++r) {
      y[r * stride + t] = c[r] = affine<kCut>(a[r * stride + t], c[r], b[r * stride + t]);
    }
  }
  for (int r = 0; r < 8; ++r) carry[r] = c[r];
}

// Rows lie `stride` apart in a, b and y; `y` may be `b`.
template <bool kCut, bool kForwards, class T>
static inline void scan_tile(const T* a, const T* b, T* y, int64_t stride, int64_t count, T* carry) {
  for (int64_t row = 0; row < kRows; row += 8) {
    const int64_t at = row * stride;
    scan_eight_rows<kCut, kForwards>(a + at, b + at, y + at, stride, 0, count, carry + row);
  }
}

#if defined(__AVX2__)

// Vector i of 4 holds rows i and i + 4 over 4 steps, or step i of 8 rows: either from the other.
static inline void turn(__m256* v) {
  const __m256 low01 = _mm256_unpacklo_ps(v[0], v[1]), high01 = _mm256_unpackhi_ps(v[0], v[1]);
  const __m256 low23 = _mm256_unpacklo_ps(v[2], v[3]), high23 = _mm256_unpackhi_ps(v[2], v[3]);
  v[0] = _mm256_shuffle_ps(low01, low23, 0x44);
  v[1] = _mm256_shuffle_ps(low01, low23, 0xee);
  v[2] = _mm256_shuffle_ps(high01, high23, 0x44);
  v[3] = _mm256_shuffle_ps(high01, high23, 0xee);
}

static inline void load_turned(const float* from, int64_t stride, __m256* v) {
  for (int i = 0; i < 4; ++i) {
    const __m256 low = _mm256_castps128_ps256(_mm_loadu_ps(from + i * stride));
    v[i] = _mm256_insertf128_ps(low, _mm_loadu_ps(from + (i + 4) * stride), 1);
  }
  turn(v);
}

static inline void store_turned(float* to, int64_t stride, __m256* v) {
  turn(v);
  for (int i = 0; i < 4; ++i) {
    _mm_storeu_ps(to + i * stride, _mm256_castps256_ps128(v[i]));
    _mm_storeu_ps(to + (i + 4) * stride, _mm256_extractf128_ps(v[i], 1));
  }
}

template <bool kCut>
static inline __m256 affine(__m256 a, __m256 y, __m256 b) {
  __m256 carried = _mm256_mul_ps(a, y);
  if (kCut) carried = _mm256_and_ps(carried, _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ));
  return _mm256_add_ps(b, carried);
}

// 4 steps of 8 rows.
template <bool kCut, bool kForwards>
static inline __m256 scan_block(const float* a, const float* b, float* out, int64_t stride, __m256 y) {
  __m256 va[4], vb[4];
  load_turned(a, stride, va);
  load_turned(b, stride, vb);
  for (int i = 0; i < 4; ++i) {
    const int t = kForwards ? i : 3 - i;
    vb[t] = y = affine<kCut>(va[t], y, vb[t]);
  }
  store_turned(out, stride, vb);
  return y;
}

template <bool kCut, bool kForwards>
static inline void scan_tile(const float* a, const float* b, float* y, int64_t stride, int64_t count,
                             float* carry) {
  const int64_t blocks = count / 4, rest = kForwards ? 4 * blocks : 0;
  const int64_t first = kForwards ? 0 : count - 4 * blocks;  // what is not of a block comes last
  const int64_t half = 8 * stride;
  __m256 y0 = _mm256_loadu_ps(carry), y1 = _mm256_loadu_ps(carry + 8);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t t = first + 4 * (kForwards ? i : blocks - 1 - i);
    y0 = scan_block<kCut, kForwards>(a + t, b + t, y + t, stride, y0);
    y1 = scan_block<kCut, kForwards>(a + half + t, b + half + t, y + half + t, stride, y1);
  }
  _mm256_storeu_ps(carry, y0);
  _mm256_storeu_ps(carry + 8, y1);
  const int64_t end = rest + count - 4 * blocks;
  for (int64_t row = 0; rest < end && row < kRows; row += 8) {
    const int64_t at = row * stride;
    scan_eight_rows<kCut, kForwards>(a + at, b + at, y + at, stride, rest, end, carry + row);
  }
}

#endif

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
