#include "gaussian.h"
#include "gaussian_columns.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

void run_block(const GaussianBackwardParams& p, int64_t block, int64_t row, int64_t rows) {
  Column scratch[4], log_std, inverse, before, log_slope, by_mean, by_log_std;
  const double* grad_log_prob = load_column(p.grad_log_prob, row, 0, rows, scratch[0]);
  const double* grad_entropy = load_column(p.grad_entropy, row, 0, rows, scratch[1]);
  for (int64_t j = 0; j < p.width; ++j) {
    const double* mean = load_column(p.mean, row, j, rows, scratch[2]);
    const double* u = load_column(p.actions, row, j, rows, scratch[3]);
    load_scales(p.log_std, row, j, rows, log_std, inverse);
    if (p.squash) {
      unsquash(u, rows, p.limit, before, log_slope);
      u = before.at;
    }
    for (int64_t r = 0; r < rows; ++r) {
      const double z = (u[r] - mean[r]) * inverse.at[r];
      by_mean.at[r] = gradient_by_mean(grad_log_prob[r], z, inverse.at[r]);
      by_log_std.at[r] = gradient_by_log_std(grad_log_prob[r], grad_entropy[r], z);
    }
    store_along_rows(p.grad_mean, row, j, rows, by_mean.at);
    if (!p.shared) {
      store_along_rows(p.grad_log_std, row, j, rows, by_log_std.at);
      continue;
    }
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r) sum += by_log_std.at[r];
    p.partial[block * p.width + j] = sum;
  }
}

}  // namespace

void gaussian_backward(const GaussianBackwardParams& p) {
  const int64_t blocks = (p.rows + kGaussianBlock - 1) / kGaussianBlock;
  parallel_blocks(blocks, p.rows * p.width * 64, [&](int64_t block) {
    const int64_t row = block * kGaussianBlock;
    run_block(p, block, row, p.rows - row < kGaussianBlock ? p.rows - row : kGaussianBlock);
  });
  for (int64_t j = 0; p.shared && j < p.width; ++j) {
    double sum = 0;
    for (int64_t block = 0; block < blocks; ++block) sum += p.partial[block * p.width + j];
    store_along_time(p.grad_log_std, 0, j, 1, &sum);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
