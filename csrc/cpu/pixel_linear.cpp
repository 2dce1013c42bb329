// pixels / 255 times weights, in whole numbers. A pixel is one byte already; a weight is written as a multiple q of a power
// of two which makes the largest weight of its output 23 bits long, and q as three digits of one signed byte:
// q = d0 + 256 d1 + 65536 d2. Products of bytes and their sums in int32 are exact, whatever their order, so that every
// instruction set gives the same bits; AVX-512 VNNI multiplies 64 bytes in the time in which floats make 16 products.
#include "pixel_linear.h"

#include <cmath>
#include <cstring>

#include "isa_namespace.h"
#include "parallel.h"

#if defined(HL_BYTE_PRODUCTS)
#include <immintrin.h>
#endif

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

constexpr int64_t kLanes = kPixelLanes, kGroup = kPixelGroup, kDigits = kPixelDigits;
constexpr int64_t kStep = kDigits * kGroup * kLanes;  // bytes of one group of inputs in a panel
constexpr int64_t kTile = 8;  // rows that share what is read of a panel
constexpr int64_t kBlock = 64;  // rows for which a panel stays in the first level of cache
constexpr float kLargest = 127 * 65536 + 127 * 256 + 127;

constexpr uint32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

float power_of_two(int exponent) {
  const uint32_t bits = static_cast<uint32_t>(exponent + 127) << 23;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// The bits of the largest magnitude, which order as the magnitudes do, with inf and NaN above all numbers.
uint32_t largest_magnitude(const float* weights, int64_t count) {
  int32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t magnitude = static_cast<int32_t>(bits_of(weights[i]) & kMagnitude);
    largest = magnitude > largest ? magnitude : largest;
  }
  return static_cast<uint32_t>(largest);
}

constexpr int64_t kAtOnce = 16;  // weights that become digits together

#if defined(HL_BYTE_PRODUCTS)

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 says it of its own headers
#endif
void split(const float* weights, float scale, int8_t (*digits)[kAtOnce]) {
  const __m512i half = _mm512_set1_epi32(128);
  __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(weights), _mm512_set1_ps(scale)));
  for (int64_t d = 0; d < kDigits; ++d) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(digits[d]), _mm512_cvtepi32_epi8(q));
    q = _mm512_srai_epi32(_mm512_add_epi32(q, half), 8);
  }
}

#else

void split(const float* weights, float scale, int8_t (*digits)[kAtOnce]) {
  for (int64_t i = 0; i < kAtOnce; ++i) {
    int32_t q = static_cast<int32_t>(std::nearbyint(weights[i] * scale));
    for (int64_t d = 0; d < kDigits; ++d) {
      digits[d][i] = static_cast<int8_t>(q);
      q = (q + 128) >> 8;  // a digit of -1 stands for 255 less one of the next
    }
  }
}

#endif

void pack_output(const float* weights, int64_t width, float scale, int8_t* panel) {
  for (int64_t at = 0; at < width; at += kAtOnce) {
    const int64_t count = width - at < kAtOnce ? width - at : kAtOnce;
    int8_t digits[kDigits][kAtOnce];
    if (count == kAtOnce) {
      split(weights + at, scale, digits);
    } else {
      float last[kAtOnce] = {};
      std::memcpy(last, weights + at, static_cast<size_t>(count) * sizeof(float));
      split(last, scale, digits);
    }
    int8_t* to = panel + at / kGroup * kStep;
    for (int64_t group = 0; group * kGroup < count; ++group) {
      for (int64_t d = 0; d < kDigits; ++d) {
        std::memcpy(to + group * kStep + d * kGroup * kLanes, digits[d] + group * kGroup, kGroup);
      }
    }
  }
}

// An output whose weights are not all finite gets digits of 0 here and is computed in floats afterwards.
bool pack(const PixelLinearParams& p, int64_t output) {
  const float* weights = p.weight + output * p.weight_stride;
  const uint32_t largest = largest_magnitude(weights, p.width);
  const bool finite = largest < kInfinity;
  // The exponent that brings the largest weight between 2^22 and 2^23; what is below the smallest normal number is cut.
  int shift = finite ? 149 - static_cast<int>(largest >> 23) : 0;
  if (shift > 126) shift = 126;
  float most;
  std::memcpy(&most, &largest, sizeof most);
  if (finite && most * power_of_two(shift) > kLargest - 0.5f) --shift;
  int8_t* panel = p.digits + output / kLanes * pixel_panel_bytes(p.width) + output % kLanes * kGroup;
  pack_output(weights, finite ? p.width : 0, power_of_two(shift), panel);
  if (!finite) {
    for (int64_t step = 0; step < pixel_groups(p.width) * kDigits; ++step) {
      std::memset(panel + step * kGroup * kLanes, 0, kGroup);
    }
  }
  p.scales[output] = power_of_two(-shift);
  return finite;
}

#if defined(HL_BYTE_PRODUCTS)

uint32_t four_pixels(const uint8_t* from) {
  uint32_t four;
  std::memcpy(&four, from, sizeof four);
  return four;
}

uint32_t last_pixels(const uint8_t* from, int64_t count) {
  uint32_t four = 0;
  std::memcpy(&four, from, static_cast<size_t>(count));
  return four;
}

// The sums must stay in registers: without their loops unrolled GCC keeps the array in memory.
#if defined(__clang__)
#define HL_UNROLL(times) _Pragma("unroll")
#elif defined(__GNUC__)
#define HL_PRAGMA(words) _Pragma(#words)
#define HL_UNROLL(times) HL_PRAGMA(GCC unroll times)
#else
#define HL_UNROLL(times)
#endif

// The instruction by name: from the intrinsic GCC 12 makes copies of the sums around every product.
void add_products(__m512i& sums, __m512i bytes, __m512i signed_bytes) {
#if defined(__GNUC__) && !defined(__clang__)
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(bytes), "v"(signed_bytes));
#else
  sums = _mm512_dpbusd_epi32(sums, bytes, signed_bytes);
#endif
}

template <int kRows>
void sum_products(const uint8_t* pixels, int64_t stride, int64_t width, const int8_t* panel,
                  int32_t (*sums)[kDigits][kLanes]) {
  __m512i total[kRows][kDigits];
  HL_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    HL_UNROLL(3)
    for (int d = 0; d < kDigits; ++d) total[r][d] = _mm512_setzero_si512();
  }
  const int64_t whole = width / kGroup;
  for (int64_t g = 0; g < whole; ++g) {
    const int8_t* from = panel + g * kStep;
    const __m512i w0 = _mm512_load_si512(from), w1 = _mm512_load_si512(from + 64),
                  w2 = _mm512_load_si512(from + 128);
    HL_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      const __m512i x = _mm512_set1_epi32(static_cast<int>(four_pixels(pixels + r * stride + g * kGroup)));
      add_products(total[r][0], x, w0);
      add_products(total[r][1], x, w1);
      add_products(total[r][2], x, w2);
    }
  }
  if (const int64_t rest = width % kGroup) {
    const int8_t* from = panel + whole * kStep;
    HL_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* last = pixels + r * stride + whole * kGroup;
      const __m512i x = _mm512_set1_epi32(static_cast<int>(last_pixels(last, rest)));
      HL_UNROLL(3)
      for (int d = 0; d < kDigits; ++d) add_products(total[r][d], x, _mm512_load_si512(from + 64 * d));
    }
  }
  HL_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    HL_UNROLL(3)
    for (int d = 0; d < kDigits; ++d) _mm512_store_si512(sums[r][d], total[r][d]);
  }
}

#else

template <int kRows>
void sum_products(const uint8_t* pixels, int64_t stride, int64_t width, const int8_t* panel,
                  int32_t (*sums)[kDigits][kLanes]) {
  std::memset(sums, 0, static_cast<size_t>(kRows) * sizeof *sums);
  for (int r = 0; r < kRows; ++r) {
    for (int64_t k = 0; k < width; ++k) {
      const int32_t x = pixels[r * stride + k];
      const int8_t* from = panel + k / kGroup * kStep + k % kGroup;
      for (int64_t d = 0; d < kDigits; ++d) {
        for (int64_t o = 0; o < kLanes; ++o) sums[r][d][o] += x * from[(d * kLanes + o) * kGroup];
      }
    }
  }
}

#endif

template <int kRows>
void rows_of_panel(const PixelLinearParams& p, int64_t row, int64_t panel) {
  alignas(64) int32_t sums[kRows][kDigits][kLanes];
  sum_products<kRows>(p.pixels + row * p.pixels_stride, p.pixels_stride, p.width,
                      p.digits + panel * pixel_panel_bytes(p.width), sums);
  const float* scale = p.scales + panel * kLanes;
  const float* bias = scale + pixel_panels(p.outputs) * kLanes;
  const int64_t left = p.outputs - panel * kLanes;
  for (int r = 0; r < kRows; ++r) {
    float y[kLanes];
    for (int64_t o = 0; o < kLanes; ++o) {
      const float low = static_cast<float>(sums[r][1][o]) * 256.0f + static_cast<float>(sums[r][0][o]);
      y[o] = (static_cast<float>(sums[r][2][o]) * 65536.0f + low) * (1.0f / 255.0f) * scale[o] + bias[o];
    }
    float* to = p.out + (row + r) * p.out_stride + panel * kLanes;
    if (left >= kLanes) {
      std::memcpy(to, y, sizeof y);
    } else {
      std::memcpy(to, y, static_cast<size_t>(left) * sizeof(float));
    }
  }
}

void block_of_rows(const PixelLinearParams& p, int64_t begin, int64_t end) {
  for (int64_t panel = 0; panel < pixel_panels(p.outputs); ++panel) {
    int64_t row = begin;
    for (; row + kTile <= end; row += kTile) rows_of_panel<kTile>(p, row, panel);
    for (; row < end; ++row) rows_of_panel<1>(p, row, panel);
  }
}

// Where inf and NaN among the weights go: the sum as floats make it.
void output_in_floats(const PixelLinearParams& p, int64_t output) {
  const float* weights = p.weight + output * p.weight_stride;
  for (int64_t row = 0; row < p.rows; ++row) {
    const uint8_t* pixels = p.pixels + row * p.pixels_stride;
    float sum = 0;
    for (int64_t k = 0; k < p.width; ++k) sum += static_cast<float>(pixels[k]) / 255.0f * weights[k];
    p.out[row * p.out_stride + output] = sum + (p.bias ? p.bias[output * p.bias_stride] : 0.0f);
  }
}

}  // namespace

void pixel_linear(const PixelLinearParams& p) {
  const int64_t padded = pixel_panels(p.outputs) * kLanes;
  bool all_finite = true;
  for (int64_t output = 0; output < p.outputs; ++output) all_finite &= pack(p, output);
  for (int64_t output = 0; output < padded; ++output) {
    const bool real = output < p.outputs;
    if (!real) p.scales[output] = 0;
    p.scales[padded + output] = real && p.bias ? p.bias[output * p.bias_stride] : 0.0f;
  }
  const int64_t blocks = (p.rows + kBlock - 1) / kBlock;
  // What waking threads must be worth is products here, not bytes.
  parallel_blocks(blocks, p.rows * p.width * p.outputs / 16, [&](int64_t i) {
    const int64_t begin = i * kBlock, end = begin + kBlock;
    block_of_rows(p, begin, end < p.rows ? end : p.rows);
  });
  for (int64_t output = 0; !all_finite && output < p.outputs; ++output) {
    if (largest_magnitude(p.weight + output * p.weight_stride, p.width) >= kInfinity) output_in_floats(p, output);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
