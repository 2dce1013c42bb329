// grad^T times pixels / 255, in whole numbers: a pixel is one byte already, a gradient three digits (byte_digits.h). Blocks of
// 512 rows follow each other, and within one of them four rows of a column stand in four neighbouring bytes.
#include "pixel_linear_grad.h"

#include "isa_namespace.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

constexpr int64_t kGroup = kByteGroup, kDigits = kByteDigits;
constexpr int64_t kInputs = kPixelGradInputs, kOutputs = kPixelGradOutputs, kChunk = kPixelGradChunk;
constexpr int64_t kGroupBytes = kInputs * kGroup;  // of a tile of pixels
constexpr int64_t kDigitBytes = kDigits * kOutputs * kGroup;  // of four outputs
constexpr int64_t kTilesOfChunk = kChunk / kOutputs;

struct Block {
  const PixelLinearGradParams& p;
  int64_t begin, rows;

  int64_t groups() const { return (rows + kGroup - 1) / kGroup; }
  uint8_t* tile(int64_t t) const { return reinterpret_cast<uint8_t*>(p.room) + t * kPixelGradTileBytes; }
  int8_t* digits(int64_t u) const {
    return p.room + pixel_grad_tiles(p.width) * kPixelGradTileBytes + u * kPixelGradDigitBytes;
  }
};

// 32 columns of four rows, a column's four bytes beside each other.
void interleave(const uint8_t* const (&rows)[kGroup], uint8_t* to) {
#if defined(HL_BYTE_PRODUCTS)
  for (int64_t half = 0; half < 2; ++half) {
    __m128i row[kGroup];
    for (int64_t j = 0; j < kGroup; ++j) {
      row[j] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[j] + 16 * half));
    }
    const __m128i low01 = _mm_unpacklo_epi8(row[0], row[1]), low23 = _mm_unpacklo_epi8(row[2], row[3]);
    const __m128i high01 = _mm_unpackhi_epi8(row[0], row[1]), high23 = _mm_unpackhi_epi8(row[2], row[3]);
    __m128i* at = reinterpret_cast<__m128i*>(to) + 4 * half;
    _mm_store_si128(at, _mm_unpacklo_epi16(low01, low23));
    _mm_store_si128(at + 1, _mm_unpackhi_epi16(low01, low23));
    _mm_store_si128(at + 2, _mm_unpacklo_epi16(high01, high23));
    _mm_store_si128(at + 3, _mm_unpackhi_epi16(high01, high23));
  }
#else
  for (int64_t i = 0; i < kInputs; ++i) {
    for (int64_t j = 0; j < kGroup; ++j) to[i * kGroup + j] = rows[j][i];
  }
#endif
}

void interleave_tile(const Block& block, int64_t t) {
  const PixelLinearGradParams& p = block.p;
  const int64_t column = t * kInputs, count = p.width - column;
  uint8_t copies[kGroup][kInputs] = {};
  for (int64_t g = 0; g < block.groups(); ++g) {
    const uint8_t* rows[kGroup];
    for (int64_t j = 0; j < kGroup; ++j) {
      const int64_t row = g * kGroup + j;
      // rows after the last one meet digits of 0, and columns after the last one are not written
      const uint8_t* from = p.pixels + (block.begin + (row < block.rows ? row : 0)) * p.pixels_stride + column;
      rows[j] = from;
      if (count < kInputs) {
        std::memcpy(copies[j], from, static_cast<size_t>(count));
        rows[j] = copies[j];
      }
    }
    interleave(rows, block.tile(t) + g * kGroupBytes);
  }
}

// Four rows of 16 outputs: each row's number of an output is one byte of a word, for every digit.
void split(const float (*numbers)[kChunk], const float* scale, int8_t* to) {
#if defined(HL_BYTE_PRODUCTS)
  const __m512i byte = _mm512_set1_epi32(255);
  __m512i q[kGroup];
  for (int64_t j = 0; j < kGroup; ++j) {
    q[j] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(numbers[j]), _mm512_loadu_ps(scale)));
  }
  for (int64_t d = 0; d < kDigits; ++d) {
    __m512i words = _mm512_slli_epi32(q[3], 24);
    words = _mm512_or_si512(words, _mm512_slli_epi32(_mm512_and_si512(q[2], byte), 16));
    words = _mm512_or_si512(words, _mm512_slli_epi32(_mm512_and_si512(q[1], byte), 8));
    words = _mm512_or_si512(words, _mm512_and_si512(q[0], byte));
    int8_t* at = to + d * kOutputs * kGroup;
    _mm_store_si128(reinterpret_cast<__m128i*>(at), _mm512_castsi512_si128(words));
    _mm_store_si128(reinterpret_cast<__m128i*>(at + kPixelGradDigitBytes), _mm512_extracti32x4_epi32(words, 1));
    _mm_store_si128(reinterpret_cast<__m128i*>(at + 2 * kPixelGradDigitBytes),
                    _mm512_extracti32x4_epi32(words, 2));
    _mm_store_si128(reinterpret_cast<__m128i*>(at + 3 * kPixelGradDigitBytes),
                    _mm512_extracti32x4_epi32(words, 3));
    for (int64_t j = 0; j < kGroup; ++j) q[j] = next_digits(q[j]);
  }
#else
  for (int64_t j = 0; j < kGroup; ++j) {
    for (int64_t o = 0; o < kChunk; ++o) {
      int32_t q = static_cast<int32_t>(std::nearbyint(numbers[j][o] * scale[o]));
      int8_t* at = to + o / kOutputs * kPixelGradDigitBytes + o % kOutputs * kGroup + j;
      for (int64_t d = 0; d < kDigits; ++d) {
        at[d * kOutputs * kGroup] = static_cast<int8_t>(q);
        q = next_digits(q);
      }
    }
  }
#endif
}

void copy_row(const Block& block, int64_t row, int64_t output, float* to) {
  const int64_t count = block.p.outputs - output;
  const float* from = block.p.grad + (block.begin + row) * block.p.grad_stride + output;
  if (count >= kChunk) {
    std::memcpy(to, from, kChunk * sizeof(float));
  } else {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
  }
}

// Outputs whose gradients are not all finite get digits of 0 here and are computed in floats afterwards.
void split_chunk(const Block& block, int64_t chunk) {
  const PixelLinearGradParams& p = block.p;
  const int64_t output = chunk * kChunk;
  float now[kGroup][kChunk] = {};
  int32_t largest[kChunk] = {};
  for (int64_t row = 0; row < block.rows; ++row) {
    copy_row(block, row, output, now[0]);
    for (int64_t o = 0; o < kChunk; ++o) {
      const int32_t magnitude = magnitude_bits(now[0][o]);
      largest[o] = magnitude > largest[o] ? magnitude : largest[o];
    }
  }
  float scale[kChunk];
  bool all_finite = true;
  for (int64_t o = 0; o < kChunk; ++o) {
    const bool finite = is_finite_magnitude(largest[o]);
    const int exponent = finite ? digit_exponent(largest[o]) : 0;
    scale[o] = power_of_two(exponent);
    p.units[output + o] = power_of_two(-exponent);
    if (!finite) p.bad[output + o] = 1;
    all_finite &= finite;
  }
  int8_t* to = block.digits(chunk * kTilesOfChunk);
  for (int64_t g = 0; g < block.groups(); ++g) {
    for (int64_t j = 0; j < kGroup; ++j) {
      const int64_t row = g * kGroup + j;
      if (row < block.rows) {
        copy_row(block, row, output, now[j]);
      } else {
        std::memset(now[j], 0, sizeof now[j]);
      }
      for (int64_t o = 0; !all_finite && o < kChunk; ++o) {
        if (p.bad[output + o]) now[j][o] = 0;
      }
    }
    split(now, scale, to + g * kDigitBytes);
  }
}

using Sums = int32_t[kOutputs][kDigits][kInputs];

#if defined(HL_BYTE_PRODUCTS)

void sum_products(const uint8_t* pixels, const int8_t* digits, int64_t groups, Sums& sums) {
  __m512i total[kOutputs][kDigits][2];
  HL_UNROLL(4)
  for (int o = 0; o < kOutputs; ++o) {
    HL_UNROLL(3)
    for (int d = 0; d < kDigits; ++d) total[o][d][0] = total[o][d][1] = _mm512_setzero_si512();
  }
  for (int64_t g = 0; g < groups; ++g, pixels += kGroupBytes, digits += kDigitBytes) {
    const __m512i x0 = _mm512_load_si512(pixels), x1 = _mm512_load_si512(pixels + 64);
    HL_UNROLL(4)
    for (int o = 0; o < kOutputs; ++o) {
      HL_UNROLL(3)
      for (int d = 0; d < kDigits; ++d) {
        const __m512i digit = four_bytes_everywhere(digits + (d * kOutputs + o) * kGroup);
        add_products(total[o][d][0], x0, digit);
        add_products(total[o][d][1], x1, digit);
      }
    }
  }
  HL_UNROLL(4)
  for (int o = 0; o < kOutputs; ++o) {
    HL_UNROLL(3)
    for (int d = 0; d < kDigits; ++d) {
      _mm512_store_si512(sums[o][d], total[o][d][0]);
      _mm512_store_si512(sums[o][d] + 16, total[o][d][1]);
    }
  }
}

#else

void sum_products(const uint8_t* pixels, const int8_t* digits, int64_t groups, Sums& sums) {
  std::memset(sums, 0, sizeof sums);
  for (int64_t g = 0; g < groups; ++g, pixels += kGroupBytes, digits += kDigitBytes) {
    for (int64_t o = 0; o < kOutputs; ++o) {
      for (int64_t d = 0; d < kDigits; ++d) {
        const int8_t* digit = digits + (d * kOutputs + o) * kGroup;
        for (int64_t i = 0; i < kInputs; ++i) {
          for (int64_t j = 0; j < kGroup; ++j) sums[o][d][i] += pixels[i * kGroup + j] * digit[j];
        }
      }
    }
  }
}

#endif

void add_tile(const Block& block, int64_t t) {
  const PixelLinearGradParams& p = block.p;
  const int64_t column = t * kInputs;
  const int64_t count = p.width - column < kInputs ? p.width - column : kInputs;
  for (int64_t output = 0; output < p.outputs; output += kOutputs) {
    alignas(64) Sums sums;
    sum_products(block.tile(t), block.digits(output / kOutputs), block.groups(), sums);
    for (int64_t o = 0; o < kOutputs && output + o < p.outputs; ++o) {
      const float unit = p.units[output + o];
      float found[kInputs];
      for (int64_t i = 0; i < kInputs; ++i) {
        found[i] = joined_sums(sums[o][0][i], sums[o][1][i], sums[o][2][i], unit);
      }
      float* to = p.out + (output + o) * p.out_stride + column;
      for (int64_t i = 0; i < count; ++i) to[i] = block.begin == 0 ? found[i] : to[i] + found[i];
    }
  }
}

// Where inf and NaN among the gradients go: the sum as floats make it.
void output_in_floats(const PixelLinearGradParams& p, int64_t output) {
  float* to = p.out + output * p.out_stride;
  std::memset(to, 0, static_cast<size_t>(p.width) * sizeof(float));
  for (int64_t row = 0; row < p.rows; ++row) {
    const float grad = p.grad[row * p.grad_stride + output];
    const uint8_t* pixels = p.pixels + row * p.pixels_stride;
    for (int64_t k = 0; k < p.width; ++k) to[k] += static_cast<float>(pixels[k]) / 255.0f * grad;
  }
}

}  // namespace

void pixel_linear_grad(const PixelLinearGradParams& p) {
  const int64_t tiles = pixel_grad_tiles(p.width), chunks = pixel_grad_chunks(p.outputs);
  for (int64_t begin = 0; begin < p.rows; begin += kPixelGradRows) {
    const int64_t left = p.rows - begin;
    const Block block{p, begin, left < kPixelGradRows ? left : kPixelGradRows};
    const int64_t work =
        block.rows * p.width * p.outputs / 16;  // threads must be worth it by products, not by bytes
    parallel_blocks(tiles + chunks, work, [&](int64_t i) {
      if (i < tiles) {
        interleave_tile(block, i);
      } else {
        split_chunk(block, i - tiles);
      }
    });
    parallel_blocks(tiles, work, [&](int64_t t) { add_tile(block, t); });
  }
  for (int64_t output = 0; output < p.outputs; ++output) {
    if (p.rows == 0) std::memset(p.out + output * p.out_stride, 0, static_cast<size_t>(p.width) * sizeof(float));
    if (p.bad[output]) output_in_floats(p, output);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
