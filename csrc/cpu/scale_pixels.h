#pragma once
#include "isa.h"
#include "../core/joint_runs.h"

namespace hotloop {

using PixelRun = JointRun<2>;  // uint8 that are read, float32 that are written

struct ScalePixelsParams {
  const PixelRun* runs = nullptr;
  int64_t count = 0;
  int64_t bytes = 0;  // of all runs, which decides whether threads are worth it
};

}  // namespace hotloop

HL_DECLARE_KERNEL_AVX2(scale_pixels, ScalePixelsParams)
