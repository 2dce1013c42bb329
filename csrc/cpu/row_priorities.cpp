#include "row_priorities.h"

#include "load.h"
#include "magnitudes.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

constexpr int64_t kRowsPerBlock = 16;

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
      const T priority = priority_of(total, alpha, overflow);
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
