// What the passes of the Gaussian ops share: one component of a block of rows, the rows being the vector lanes.
#pragma once
#include "../core/gaussian.h"
#include "gaussian.h"
#include "lanes64.h"
#include "load.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

struct Column {
  alignas(64) double at[kGaussianBlock];
};

static inline const double* load_column(const Matrix& m, int64_t row, int64_t column, int64_t rows, Column& out) {
  return load_along_rows(m, row, column, rows, out.at);
}

// 1 / standard deviation and its logarithm; shared by all rows where log_std is [k].
static inline void load_scales(const Matrix& m, int64_t row, int64_t column, int64_t rows, Column& log_std,
                               Column& inverse) {
  const bool shared = m.row_stride == 0;
  const double* x = load_column(m, row, column, shared ? 1 : rows, log_std);
  if (shared) {
    const double one = x[0], inverse_of_one = exponential(-one);
    for (int64_t r = 0; r < kGaussianBlock; ++r) log_std.at[r] = one, inverse.at[r] = inverse_of_one;
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    const double one = x[r];
    log_std.at[r] = one;
    inverse.at[r] = exponential(-one);
  }
}

static inline void unsquash(const double* actions, int64_t rows, double limit, Column& before, Column& log_slope) {
  Column above, below, log_above, log_below;
  for (int64_t r = rows; r < kGaussianBlock; ++r) above.at[r] = below.at[r] = 1.0;  // log_run reads whole vectors
  for (int64_t r = 0; r < rows; ++r) {
    const double a = within(actions[r], limit);
    above.at[r] = 1.0 + a;
    below.at[r] = 1.0 - a;
  }
  log_run(above.at, kGaussianBlock, log_above.at);
  log_run(below.at, kGaussianBlock, log_below.at);
  for (int64_t r = 0; r < rows; ++r) {
    before.at[r] = before_tanh(log_above.at[r], log_below.at[r]);
    log_slope.at[r] = tanh_log_slope(log_above.at[r], log_below.at[r]);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
