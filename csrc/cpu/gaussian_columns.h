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

// The numbers before tanh, artanh(a), and log(1 - a^2), what tanh adds to minus the log density: both from the
// logarithms of 1 + a and 1 - a, which lose nothing where a is close to 1.
static inline void unsquash(const double* actions, int64_t rows, double limit, Column& before, Column& log_slope) {
  Column above, below, log_above, log_below;
  for (int64_t r = rows; r < kGaussianBlock; ++r) above.at[r] = below.at[r] = 1.0;  // log_run reads whole vectors
  for (int64_t r = 0; r < rows; ++r) {
    double a = actions[r];
    a = a > limit ? limit : a;
    a = a < -limit ? -limit : a;
    above.at[r] = 1.0 + a;
    below.at[r] = 1.0 - a;
  }
  log_run(above.at, kGaussianBlock, log_above.at);
  log_run(below.at, kGaussianBlock, log_below.at);
  for (int64_t r = 0; r < rows; ++r) {
    before.at[r] = 0.5 * (log_above.at[r] - log_below.at[r]);
    log_slope.at[r] = log_above.at[r] + log_below.at[r];
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
