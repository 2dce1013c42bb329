#include "importance_ratio.h"

#include "../core/ppo.h"
#include "load.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

constexpr int64_t kRun = 256;  // samples staged at once

template <class T>
void run_row(const ImportanceRatioParams& p, int64_t row) {
  alignas(64) T fresh[kRun], old[kRun], valid[kRun], out[kRun];
  const T invalid = static_cast<T>(p.invalid);
  for (int64_t t = 0; t < p.columns; t += kRun) {
    const int64_t count = p.columns - t < kRun ? p.columns - t : kRun;
    const T* __restrict a = load_along_time(p.new_log_prob, row, t, count, fresh);
    const T* __restrict b = load_along_time(p.old_log_prob, row, t, count, old);
    for (int64_t i = 0; i < count; ++i) out[i] = exponential(clamp(a[i] - b[i], T(-10), T(10)));
    if (p.valid.data != nullptr) {
      const T* __restrict v = load_along_time(p.valid, row, t, count, valid);
      for (int64_t i = 0; i < count; ++i) out[i] = v[i] != T(0) ? out[i] : invalid;
    }
    store_along_time(p.out, row, t, count, out);
  }
}

template <class T>
void run(const ImportanceRatioParams& p) {
  const int64_t bytes = 4 * p.rows * p.columns * static_cast<int64_t>(sizeof(T));  // an exponential is four copies
  parallel_blocks(p.rows, bytes, [&](int64_t row) { run_row<T>(p, row); });
}

}  // namespace

void importance_ratio(const ImportanceRatioParams& p) {
  if (p.out.dtype == DType::f64) {
    run<double>(p);
  } else {
    run<float>(p);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
