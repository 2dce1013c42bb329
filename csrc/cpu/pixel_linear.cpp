// pixels / 255 times weights, in whole numbers: a pixel is one byte already, a weight three digits (byte_digits.h).
#include "pixel_linear.h"

#include "byte_digits.h"
#include "isa_namespace.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

constexpr int64_t kLanes = kPixelLanes, kGroup = kByteGroup, kDigits = kByteDigits;
constexpr int64_t kStep = kDigits * kGroup * kLanes;  // bytes of one group of inputs in a panel
constexpr int64_t kTile = 8;  // rows that share what is read of a panel
constexpr int64_t kBlock = 64;  // rows for which a panel stays in the first level of cache

int32_t largest_magnitude(const float* weights, int64_t count) {
  int32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t magnitude = magnitude_bits(weights[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

constexpr int64_t kAtOnce = 16;  // weights that become digits together

#if defined(HL_BYTE_PRODUCTS)

void split(const float* weights, float scale, int8_t (*digits)[kAtOnce]) {
  __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(weights), _mm512_set1_ps(scale)));
  for (int64_t d = 0; d < kDigits; ++d) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(digits[d]), _mm512_cvtepi32_epi8(q));
    q = next_digits(q);
  }
}

#else

void split(const float* weights, float scale, int8_t (*digits)[kAtOnce]) {
  for (int64_t i = 0; i < kAtOnce; ++i) {
    int32_t q = static_cast<int32_t>(std::nearbyint(weights[i] * scale));
    for (int64_t d = 0; d < kDigits; ++d) {
      digits[d][i] = static_cast<int8_t>(q);
      q = next_digits(q);
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
  const int32_t largest = largest_magnitude(weights, p.width);
  const bool finite = is_finite_magnitude(largest);
  const int exponent = finite ? digit_exponent(largest) : 0;
  int8_t* panel = p.digits + output / kLanes * pixel_panel_bytes(p.width) + output % kLanes * kGroup;
  pack_output(weights, finite ? p.width : 0, power_of_two(exponent), panel);
  if (!finite) {
    for (int64_t step = 0; step < pixel_groups(p.width) * kDigits; ++step) {
      std::memset(panel + step * kGroup * kLanes, 0, kGroup);
    }
  }
  p.scales[output] = power_of_two(-exponent);
  return finite;
}

#if defined(HL_BYTE_PRODUCTS)

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
      const __m512i x = four_bytes_everywhere(pixels + r * stride + g * kGroup);
      add_products(total[r][0], x, w0);
      add_products(total[r][1], x, w1);
      add_products(total[r][2], x, w2);
    }
  }
  if (const int64_t rest = width % kGroup) {
    const int8_t* from = panel + whole * kStep;
    HL_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      uint8_t last[kGroup] = {};
      std::memcpy(last, pixels + r * stride + whole * kGroup, static_cast<size_t>(rest));
      const __m512i x = four_bytes_everywhere(last);
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
      y[o] = joined_sums(sums[r][0][o], sums[r][1][o], sums[r][2][o], scale[o]) + bias[o];
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
    const int32_t largest = largest_magnitude(p.weight + output * p.weight_stride, p.width);
    if (!is_finite_magnitude(largest)) output_in_floats(p, output);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
