#include "row_priorities.h"

#include <cmath>

#include "load.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

constexpr int64_t kSumLanes = 16;  // partial sums, the same number on every instruction set: same bits everywhere
constexpr int64_t kRun = 256;  // a multiple of kSumLanes, so that step t always falls into lane t % 16
constexpr int64_t kRowsPerBlock = 16;

template <class T>
T sum_of_magnitudes(const Matrix& m, int64_t row, int64_t horizon, T* scratch) {
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
double overflow_threshold(DType dtype) {
  if (dtype == DType::f16) return 65520.0;
  if (dtype == DType::bf16) return 0x1.ffp127;
  return HUGE_VAL;
}

template <class T>
void run(const RowPrioritiesParams& p) {
  const T overflow = static_cast<T>(overflow_threshold(p.priorities.dtype));
  const T alpha = static_cast<T>(p.alpha);
  const int64_t bytes = p.rows * p.horizon * static_cast<int64_t>(sizeof(T));
  parallel_blocks((p.rows + kRowsPerBlock - 1) / kRowsPerBlock, bytes, [&](int64_t block) {
    alignas(64) T scratch[kRun];
    const int64_t first = block * kRowsPerBlock;
    const int64_t end = first + kRowsPerBlock < p.rows ? first + kRowsPerBlock : p.rows;
    for (int64_t row = first; row < end; ++row) {
      const T total = sum_of_magnitudes(p.advantages, row, p.horizon, scratch);
      T priority = alpha == T(1) ? total : ::pow(total, alpha);
      // x - x is 0 for finite x only
      if (!(total - total == T(0)) || !(priority - priority == T(0)) || priority >= overflow) priority = T(0);
      store_along_rows(p.priorities, row, 0, 1, &priority);
    }
  });
}

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
void row_priorities(const RowPrioritiesParams& p) {
  if (p.advantages.dtype == DType::f64) {
    run<double>(p);
  } else {
    run<float>(p);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
