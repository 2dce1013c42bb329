#include "gaussian.cuh"

#include "launchers.h"

namespace hotloop {
namespace {

int64_t blocks_of(const GaussianBackwardParams& p) { return (p.rows + kGaussianBlock - 1) / kGaussianBlock; }

}  // namespace

cudaError_t launch_gaussian(const GaussianParams& p, const Launch& launch) {
  using namespace device;
  if (p.rows == 0) return cudaSuccess;
  GaussianArgs a;
  a.rows = p.rows;
  a.width = p.width;
  a.mean = Array(p.mean);
  a.log_std = Array(p.log_std);
  a.actions = Array(p.actions);
  a.log_prob = Array(p.log_prob);
  a.entropy = Array(p.entropy);
  a.draw = p.draw;
  a.squash = p.squash;
  a.limit = p.limit;
  a.key = RandomKey{p.seed, static_cast<uint32_t>(p.step >> 32), static_cast<uint32_t>(p.step), kStreamGaussian};
  a.first_row = p.first_row;
  HL_LAUNCH(gaussian_kernel, blocks_for(p.rows, kGaussianThreads), kGaussianThreads, 0, launch.stream, a);
  return cudaGetLastError();
}

int64_t gaussian_backward_scratch_bytes(const GaussianBackwardParams& p) {
  return p.shared ? blocks_of(p) * p.width * static_cast<int64_t>(sizeof(double)) : 0;
}

cudaError_t launch_gaussian_backward(const GaussianBackwardParams& p, const Launch& launch) {
  using namespace device;
  if (p.width == 0) return cudaSuccess;
  GaussianBackwardArgs a;
  a.rows = p.rows;
  a.width = p.width;
  a.grad_log_prob = Array(p.grad_log_prob);
  a.grad_entropy = Array(p.grad_entropy);
  a.mean = Array(p.mean);
  a.log_std = Array(p.log_std);
  a.actions = Array(p.actions);
  a.grad_mean = Array(p.grad_mean);
  a.grad_log_std = Array(p.grad_log_std);
  a.squash = p.squash;
  a.shared = p.shared;
  a.limit = p.limit;
  a.partial = static_cast<double*>(launch.scratch);
  if (!p.shared) {
    if (p.rows == 0) return cudaSuccess;
    HL_LAUNCH(gaussian_backward_kernel, blocks_for(p.rows * p.width, kGaussianThreads), kGaussianThreads, 0,
              launch.stream, a);
    return cudaGetLastError();
  }
  const int64_t blocks = blocks_of(p), groups = (p.width + kSharedColumns - 1) / kSharedColumns;
  if (blocks > 0) {
    if (a.partial == nullptr) return cudaErrorInvalidValue;
    HL_LAUNCH(gaussian_shared_kernel, static_cast<unsigned>(blocks * groups), kSharedThreads, 0, launch.stream, a);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  HL_LAUNCH(gaussian_finish_kernel, blocks_for(p.width, kSharedAtOnce), kSharedThreads, 0, launch.stream, a,
            blocks);
  return cudaGetLastError();
}

}  // namespace hotloop
