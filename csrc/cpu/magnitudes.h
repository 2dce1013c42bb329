// Sums of |x| over rows, as row priorities are made of.
#pragma once
#include <cmath>

#include "isa_namespace.h"
#include "load.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

constexpr int64_t kSumLanes = 16;  // partial sums, the same number on every instruction set: same bits everywhere
constexpr int64_t kRun = 256;  // a multiple of kSumLanes, so that step t always falls into lane t % 16

template <class T>
static inline T sum_of_magnitudes(const Matrix& m, int64_t row, int64_t horizon, T* scratch) {
  alignas(64) T lane[kSumLanes] = {};
  for (int64_t t = 0; t < horizon; t += kRun) {
    const int64_t count = horizon - t < kRun ? horizon - t : kRun;
    const T* run = load_along_time(m, row, t, count, scratch);
    int64_t i = 0;
    for (; i + kSumLanes <= count; i += kSumLanes) {
      for (int64_t j = 0; j < kSumLanes; ++j) lane[j] += run[i + j] < T(0) ? -run[i + j] : run[i + j];
    }
    for (; i < count; ++i) lane[i % kSumLanes] += run[i] < T(0) ? -run[i] : run[i];
  }
  for (int64_t width = kSumLanes / 2; width > 0; width /= 2) {
    for (int64_t j = 0; j < width; ++j) lane[j] += lane[j + width];
  }
  return lane[0];
}

// From here on rounding to the dtype gives infinity.
static inline double overflow_threshold(DType dtype) {
  if (dtype == DType::f16) return 65520.0;
  if (dtype == DType::bf16) return 0x1.ffp127;
  return HUGE_VAL;
}

// 0 where the sum or its power is not finite in the dtype of the priorities.
template <class T>
static inline T priority_of(T total, T alpha, T overflow) {
  const T priority = alpha == T(1) ? total : ::pow(total, alpha);
  // x - x is 0 for finite x only
  const bool usable = total - total == T(0) && priority - priority == T(0) && priority < overflow;
  return usable ? priority : T(0);
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
