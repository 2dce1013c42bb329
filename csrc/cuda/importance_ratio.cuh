// exp(new - old) of log probabilities, clamped: a thread a sample.
#pragma once
#include "element.cuh"
#include "../core/importance_ratio_params.h"
#include "../core/ppo.h"

namespace hotloop {
namespace device {

constexpr int kRatioThreads = 256;

template <class T>
__global__ void __launch_bounds__(kRatioThreads) importance_ratio_kernel(const ImportanceRatioParams p) {
  const int64_t i = global_thread();
  if (i >= p.rows * p.columns) return;
  const int64_t row = i / p.columns, t = i % p.columns;
  const T difference = load_at<T>(p.new_log_prob, row, t) - load_at<T>(p.old_log_prob, row, t);
  const T ratio = exponential(clamp(difference, T(-10), T(10)));
  store_at(p.out, row, t, flag_or<T>(p.valid, row, t, true) ? ratio : static_cast<T>(p.invalid));
}

}  // namespace device
}  // namespace hotloop
