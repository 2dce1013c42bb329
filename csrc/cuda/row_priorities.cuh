// Row priorities, summed in the order of the CPU: 16 partial sums a row, then pairwise.
#pragma once
#include "element.cuh"
#include "../core/row_priorities_params.h"

namespace hotloop {
namespace device {

constexpr int kSumLanes = 16;  // a row: the partial sums of csrc/cpu/magnitudes.h
constexpr int kPriorityThreads = 128;

// overflow: from here on rounding to the dtype of the priorities gives infinity.
template <class T>
__global__ void __launch_bounds__(kPriorityThreads)
    row_priorities_kernel(const Array advantages, const Array priorities, const int64_t rows,
                          const int64_t horizon, const T alpha, const T overflow) {
  const int lane = static_cast<int>(threadIdx.x % kSumLanes);
  const int64_t row = global_thread() / kSumLanes;
  T sum = T(0);
  if (row < rows) {
    for (int64_t t = lane; t < horizon; t += kSumLanes) {
      const T x = load_at<T>(advantages, row, t);
      sum += x < T(0) ? -x : x;
    }
  }
  for (int width = kSumLanes / 2; width > 0; width /= 2) sum += __shfl_down_sync(kAllLanes, sum, width, kSumLanes);
  if (lane != 0 || row >= rows) return;
  const T priority = alpha == T(1) ? sum : ::pow(sum, alpha);
  // x - x is 0 for finite x only
  const bool usable = sum - sum == T(0) && priority - priority == T(0) && priority < overflow;
  store_at(priorities, row, 0, usable ? priority : T(0));
}

}  // namespace device
}  // namespace hotloop
