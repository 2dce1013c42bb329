// What ppo_loss is asked to do: the boundary into its kernels, on every device.
#pragma once
#include "view.h"

namespace hotloop {

constexpr int64_t kPpoBlock = 1024;  // samples, in row-major order, whose sums are made together
// policy loss, squared value error, entropy, k3, clipped, ratio, log prob, returns, returns^2, residuals, residuals^2
constexpr int64_t kPpoSums = 11;
constexpr int64_t kPpoStatistics = 12;  // the same as means, the last four as sums, and the number of samples

// Loss, statistics and gradients of N = rows * columns samples. Arithmetic is in T = dtype of new_log_prob, one
// rounding an operation as plain torch has it, sums in float64.
struct PpoLossParams {
  int64_t rows = 0;
  int64_t columns = 0;
  Matrix new_log_prob, old_log_prob, advantages, new_values, old_values, returns, entropy;  // [B, T]
  Matrix prio_weights, valid;  // [B, T] or absent
  double clip_coef = 0;
  double vf_clip_coef = -1;  // < 0: not clipped
  double vf_coef = 0, ent_coef = 0, eps = 0;
  bool normalize_advantage = false;
  char* loss = nullptr;  // one T
  double* statistics = nullptr;  // [kPpoStatistics]
  Matrix gradients[3];  // [B, T] each or absent: by new_log_prob, new_values, entropy
  double* partial = nullptr;  // scratch: kPpoSums for each block of kPpoBlock samples
};

}  // namespace hotloop
