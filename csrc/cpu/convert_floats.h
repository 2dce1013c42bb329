#pragma once
#include "../core/view.h"
#include "isa.h"

namespace hotloop {

// A run of elements converted to a floating dtype, times a factor: in float32, in float64 where either side is, and
// rounded once. Integer targets are not here: what becomes of numbers out of their range would depend on the
// instruction set.
struct ConvertFloatsParams {
  DType to = DType::f32, from = DType::f32;  // `to` is floating
  char* out = nullptr;
  const char* in = nullptr;
  int64_t out_stride = 1, in_stride = 1;  // in elements
  int64_t count = 0;
  double scale = 1.0;
};

}  // namespace hotloop

HL_DECLARE_KERNEL_AVX2(convert_floats, ConvertFloatsParams)
