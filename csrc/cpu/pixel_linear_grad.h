#pragma once
#include <cstdint>

#include "byte_digits.h"
#include "isa.h"

namespace hotloop {

constexpr int64_t kPixelGradRows =
    512;  // whose pixels and gradients are rearranged, and summed in int32, together
constexpr int64_t kPixelGradGroups = kPixelGradRows / kByteGroup;
constexpr int64_t kPixelGradInputs = 32;   // of a tile, and
constexpr int64_t kPixelGradOutputs = 4;   // its outputs
constexpr int64_t kPixelGradChunk = 16;    // outputs whose gradients become digits together
constexpr int64_t kPixelGradTileBytes = kPixelGradGroups * kPixelGradInputs * kByteGroup;
constexpr int64_t kPixelGradDigitBytes = kPixelGradGroups * kByteDigits * kPixelGradOutputs * kByteGroup;

static inline int64_t pixel_grad_tiles(int64_t width) { return (width + kPixelGradInputs - 1) / kPixelGradInputs; }
static inline int64_t pixel_grad_chunks(int64_t outputs) {
  return (outputs + kPixelGradChunk - 1) / kPixelGradChunk;
}
// Of the room to work in: the pixels' tiles, then the gradients' digits.
static inline int64_t pixel_grad_bytes(int64_t width, int64_t outputs) {
  return pixel_grad_tiles(width) * kPixelGradTileBytes +
         pixel_grad_chunks(outputs) * (kPixelGradChunk / kPixelGradOutputs) * kPixelGradDigitBytes;
}

struct PixelLinearGradParams {
  const uint8_t* pixels = nullptr;  // [rows, width], the last dimension contiguous
  int64_t pixels_stride = 0;
  const float* grad = nullptr;  // [rows, outputs], the last dimension contiguous
  int64_t grad_stride = 0;
  float* out = nullptr;  // [outputs, width], the last dimension contiguous
  int64_t out_stride = 0;
  int64_t rows = 0, width = 0, outputs = 0;
  int8_t* room = nullptr;    // pixel_grad_bytes, 64 bytes aligned
  float* units = nullptr;  // [chunks x 16], room for what an output's sums are multiplied by; 0 in the beginning
  uint8_t* bad = nullptr;  // [chunks x 16], room for which outputs have inf or NaN in their gradients; 0 too
};

}  // namespace hotloop

HL_DECLARE_VARIANT(baseline, pixel_linear_grad, PixelLinearGradParams)
#if defined(HL_HAVE_X86_KERNELS)
HL_DECLARE_VARIANT(avx512vnni, pixel_linear_grad, PixelLinearGradParams)
#endif

namespace hotloop {

static inline void pixel_linear_grad(const PixelLinearGradParams& params) {
#if defined(HL_HAVE_X86_KERNELS)
  if (has_byte_products()) return avx512vnni::pixel_linear_grad(params);
#endif
  baseline::pixel_linear_grad(params);
}

}  // namespace hotloop
