// exp(new - old) of log probabilities, clamped: a thread a sample.
#pragma once
#include "element.cuh"
#include "../core/importance_ratio_params.h"
#include "../core/ppo.h"

namespace hotloop {
namespace device {

constexpr int kRatioThreads = 256;

template <class T>
__global__ void __launch_bounds__(kRatioThreads)
    importance_ratio_kernel(const Array fresh, const Array old, const Array valid, const Array out,
                            const int64_t rows, const int64_t columns, const T invalid) {
  const int64_t i = global_thread();
  if (i >= rows * columns) return;
  const int64_t row = i / columns, t = i % columns;
  const T difference = load_at<T>(fresh, row, t) - load_at<T>(old, row, t);
  const T ratio = exponential(clamp(difference, T(-10), T(10)));
  store_at(out, row, t, flag_or<T>(valid, row, t, true) ? ratio : invalid);
}

}  // namespace device
}  // namespace hotloop
