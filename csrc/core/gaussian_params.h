// What the Gaussian ops are asked to do: the boundary into their kernels, on every device.
#pragma once
#include "philox.h"
#include "view.h"

namespace hotloop {

// k independent normal numbers a row, squashed by tanh where `squash`. Draws where `draw`, otherwise reads the
// actions. Arithmetic and sums are float64; `limit` is the greatest number below 1 of the actions' dtype.
struct GaussianParams {
  int64_t rows = 0;
  int64_t width = 0;
  Matrix mean;               // [N, k]
  Matrix log_std;            // [N, k], or [k] where row_stride is 0
  Matrix actions;            // [N, k]; written where `draw`
  Matrix log_prob, entropy;  // [N], written
  bool draw = false, squash = false;
  double limit = 1;
  uint64_t seed = 0, step = 0;
  uint64_t first_row = 0;  // what row 0 is called where it draws
};

// Gradients of sum_n grad_log_prob[n] log_prob[n] + grad_entropy[n] entropy[n].
struct GaussianBackwardParams {
  int64_t rows = 0;
  int64_t width = 0;
  Matrix grad_log_prob, grad_entropy;  // [N]
  Matrix mean, log_std, actions;       // as above
  bool squash = false;
  double limit = 1;
  Matrix grad_mean;           // [N, k], written
  Matrix grad_log_std;        // [N, k] or [k], written
  bool shared = false;        // log_std is [k]: its gradient is a sum over rows
  double* partial = nullptr;  // scratch where `shared`: k for each block of kGaussianBlock rows
};

constexpr int64_t kGaussianBlock = 64;

}  // namespace hotloop
