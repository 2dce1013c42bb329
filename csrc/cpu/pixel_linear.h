#pragma once
#include <cstdint>

#include "byte_digits.h"
#include "isa.h"

namespace hotloop {

// Weights of 16 outputs stand together, four inputs of each in four neighbouring bytes, as the processor's byte products
// take them; and three such panels, one for each digit of the weights.
constexpr int64_t kPixelLanes = 16;
static inline int64_t pixel_groups(int64_t width) { return (width + kByteGroup - 1) / kByteGroup; }
static inline int64_t pixel_panels(int64_t outputs) { return (outputs + kPixelLanes - 1) / kPixelLanes; }
static inline int64_t pixel_panel_bytes(int64_t width) {
  return pixel_groups(width) * kByteDigits * kByteGroup * kPixelLanes;
}

struct PixelLinearParams {
  const uint8_t* pixels = nullptr;  // [rows, width], the last dimension contiguous
  int64_t pixels_stride = 0;
  const float* weight = nullptr;  // [outputs, width], the last dimension contiguous
  int64_t weight_stride = 0;
  const float* bias = nullptr;  // [outputs], or null
  int64_t bias_stride = 0;
  float* out = nullptr;  // [rows, outputs], the last dimension contiguous
  int64_t out_stride = 0;
  int64_t rows = 0, width = 0, outputs = 0;
  int8_t* digits = nullptr;  // pixel_panels(outputs) x pixel_panel_bytes(width), room to work in, 64 bytes aligned
  float* scales = nullptr;  // [2, panels x lanes], room for what a sum is multiplied by, and the bias
};

}  // namespace hotloop

HL_DECLARE_VARIANT(baseline, pixel_linear, PixelLinearParams)
#if defined(HL_HAVE_X86_KERNELS)
HL_DECLARE_VARIANT(avx512vnni, pixel_linear, PixelLinearParams)
#endif

namespace hotloop {

static inline void pixel_linear(const PixelLinearParams& params) {
#if defined(HL_HAVE_X86_KERNELS)
  if (has_byte_products()) return avx512vnni::pixel_linear(params);
#endif
  baseline::pixel_linear(params);
}

}  // namespace hotloop
