// Who wins where several rows are written to one place.
#pragma once
#include "move.cuh"

namespace hotloop {
namespace device {

// Of rows that several sources write the last one wins, whatever the order of threads: winners[row] is its number.
static __global__ void __launch_bounds__(kMoveThreads)
    reset_winners_kernel(const RowIndices at, const int64_t count, int64_t* winners) {
  const int64_t i = global_thread();
  if (i < count) winners[checked_index(at.to[0], at.to_stride[0], at.to_limit[0], i)] = -1;
}

static __global__ void __launch_bounds__(kMoveThreads)
    claim_winners_kernel(const RowIndices at, const int64_t count, int64_t* winners) {
  const int64_t i = global_thread();
  if (i >= count) return;
  const int64_t row = checked_index(at.to[0], at.to_stride[0], at.to_limit[0], i);
  atomicMax(reinterpret_cast<long long*>(winners + row), static_cast<long long>(i));
}

}  // namespace device
}  // namespace hotloop
