// Zeros for a column [N]: the gradients of what follows the last step, where there is no step.
#pragma once
#include "element.cuh"
#include "launch.h"

namespace hotloop {
namespace device {

constexpr int kFillThreads = 256;

static __global__ void __launch_bounds__(kFillThreads) fill_zeros_kernel(const Array column, const int64_t rows) {
  const int64_t row = global_thread();
  if (row < rows) store_at(column, row, 0, 0.0f);
}

inline cudaError_t launch_zeros(const Matrix& column, int64_t rows, const Launch& launch) {
  if (rows == 0) return cudaSuccess;
  HL_LAUNCH(fill_zeros_kernel, blocks_for(rows, kFillThreads), kFillThreads, 0, launch.stream, Array(column),
            rows);
  return cudaGetLastError();
}

}  // namespace device
}  // namespace hotloop
