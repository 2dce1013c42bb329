// Independent normal numbers, in float64 and in the CPU's order of additions: a thread a row forwards, a thread an
// element backwards.
#pragma once
#include "element.cuh"
#include "ordered_sums.cuh"
#include "../core/gaussian.h"
#include "../core/gaussian_params.h"

namespace hotloop {
namespace device {

constexpr int kGaussianThreads = 128;

struct GaussianArgs {
  int64_t rows, width;
  Array mean, log_std, actions, log_prob, entropy;
  bool draw, squash;
  double limit;
  RandomKey key;  // of the first pair of components
  uint64_t first_row;
};

// What a squashed action was before tanh, and what tanh adds to minus its log density.
HL_DEVICE double unsquash(double action, double limit, double* log_slope) {
  const double a = within(action, limit);
  const double log_above = logarithm(1.0 + a), log_below = logarithm(1.0 - a);
  *log_slope = tanh_log_slope(log_above, log_below);
  return before_tanh(log_above, log_below);
}

// Two standard normal numbers: row n takes numbers 2m and 2m + 1, m = first_row + n, of the stream of its pair.
HL_DEVICE void normal_pair(const GaussianArgs& a, int64_t row, int64_t pair, double* even, double* odd) {
  RandomKey key = a.key;
  key.stream += static_cast<uint32_t>(pair) << kStreamBits;
  const uint64_t number = 2 * (a.first_row + static_cast<uint64_t>(row));
  const double uniform = uniform_closed_open(random_bits64(key, number)) + 0x1p-53;  // (0, 1], exactly
  const double radius = normal_radius(logarithm(uniform));
  double cosine, sine;
  cos_sin_turn(uniform_closed_open(random_bits64(key, number + 1)), &cosine, &sine);
  *even = radius * cosine;
  *odd = radius * sine;
}

static __global__ void __launch_bounds__(kGaussianThreads) gaussian_kernel(const GaussianArgs a) {
  const int64_t row = global_thread();
  if (row >= a.rows) return;
  double log_prob = 0, entropy = 0, even = 0, odd = 0;
  HL_ROLLED
  for (int64_t j = 0; j < a.width; ++j) {
    const double mean = load_at<double>(a.mean, row, j), log_std = load_at<double>(a.log_std, row, j);
    double u;
    if (a.draw) {
      if (j % 2 == 0) normal_pair(a, row, j / 2, &even, &odd);
      u = mean + exponential(log_std) * (j % 2 == 0 ? even : odd);
      if (a.squash) u = within(squashed(u), a.limit);
      // Rounded before its density is taken: evaluating what was stored gives the same bits.
      if (a.actions.dtype == DType::f32) u = static_cast<double>(static_cast<float>(u));
      store_at(a.actions, row, j, u);
    } else {
      u = load_at<double>(a.actions, row, j);
    }
    if (a.squash) {
      double log_slope;
      u = unsquash(u, a.limit, &log_slope);
      log_prob -= log_slope;
    }
    log_prob += normal_log_density((u - mean) * exponential(-log_std), log_std);
    entropy += normal_entropy(log_std);
  }
  store_at(a.log_prob, row, 0, log_prob);
  store_at(a.entropy, row, 0, entropy);
}

struct GaussianBackwardArgs {
  int64_t rows, width;
  Array grad_log_prob, grad_entropy, mean, log_std, actions, grad_mean, grad_log_std;
  bool squash, shared;
  double limit;
  double* partial;  // where shared: [blocks of rows, width]
};

// Stores the gradient by the mean and returns that by the logarithm of the standard deviation.
HL_DEVICE double gaussian_gradient(const GaussianBackwardArgs& a, int64_t row, int64_t j) {
  const double mean = load_at<double>(a.mean, row, j);
  const double inverse = exponential(-load_at<double>(a.log_std, row, j));
  double u = load_at<double>(a.actions, row, j);
  if (a.squash) {
    double log_slope;
    u = unsquash(u, a.limit, &log_slope);
  }
  const double z = (u - mean) * inverse;
  const double by_log_prob = load_at<double>(a.grad_log_prob, row, 0);
  store_at(a.grad_mean, row, j, gradient_by_mean(by_log_prob, z, inverse));
  return gradient_by_log_std(by_log_prob, load_at<double>(a.grad_entropy, row, 0), z);
}

static __global__ void __launch_bounds__(kGaussianThreads) gaussian_backward_kernel(const GaussianBackwardArgs a) {
  const int64_t i = global_thread();
  if (i >= a.rows * a.width) return;
  const int64_t row = i / a.width, j = i % a.width;
  store_at(a.grad_log_std, row, j, gaussian_gradient(a, row, j));
}

constexpr int kSharedColumns = 4;
constexpr int kSharedThreads = static_cast<int>(kGaussianBlock) * kSharedColumns;

// Where all rows share log_std: one block makes a few columns of a block of rows, and a thread a column adds them up.
static __global__ void __launch_bounds__(kSharedThreads, 2) gaussian_shared_kernel(const GaussianBackwardArgs a) {
  HL_SHARED(double, staged, kSharedThreads);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t groups = (a.width + kSharedColumns - 1) / kSharedColumns;
  const int64_t block = static_cast<int64_t>(blockIdx.x) / groups;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) % groups * kSharedColumns;
  const int64_t first = block * kGaussianBlock;
  const int64_t row = first + thread / kSharedColumns, j = first_column + thread % kSharedColumns;
  if (row < a.rows && j < a.width) staged[thread] = gaussian_gradient(a, row, j);
  __syncthreads();
  if (thread >= kSharedColumns || j >= a.width) return;
  double sum = 0;
  for (int r = 0; r < kGaussianBlock && first + r < a.rows; ++r) {
    sum += static_cast<double>(staged[r * kSharedColumns + thread]);
  }
  a.partial[block * a.width + j] = sum;
}

constexpr int kSharedAtOnce = 16;  // columns that a block finishes

static __global__ void __launch_bounds__(kSharedThreads)
    gaussian_finish_kernel(const GaussianBackwardArgs a, const int64_t blocks) {
  HL_SHARED(double, staged, kStagedSums);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kSharedAtOnce;
  const int columns = static_cast<int>(a.width - first < kSharedAtOnce ? a.width - first : kSharedAtOnce);
  const double sum = sum_rows(a.partial, blocks, a.width, first, columns, staged);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < columns) store_at(a.grad_log_std, 0, first + thread, sum);
}

}  // namespace device
}  // namespace hotloop
