// Clearing the actions of agents whose episode has ended.
#pragma once
#include "move.cuh"

namespace hotloop {
namespace device {

// Rows whose flag is true become zeros.
static __global__ void __launch_bounds__(kMoveThreads)
    clear_rows_kernel(const LeafMove leaf, const Array flags, const int64_t count) {
  const int64_t i = global_thread();
  if (i >= count * leaf.units) return;
  const int64_t row = i / leaf.units;
  int64_t unit = i % leaf.units;
  if (load_at<float>(flags, row, 0) == 0.0f) return;
  char* to = leaf.to + row * leaf.to_step[0];
  for (int dim = leaf.row.ndim - 1; dim >= 0; --dim) {
    to += unit % leaf.row.shape[dim] * leaf.row.to_stride[dim];
    unit /= leaf.row.shape[dim];
  }
  const int64_t size = itemsize(leaf.row.to);
  for (int64_t byte = 0; byte < size; ++byte) to[byte] = 0;
}

}  // namespace device
}  // namespace hotloop
