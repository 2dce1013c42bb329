#include "ppo_loss.cuh"

#include "launchers.h"

namespace hotloop {
namespace {

constexpr int64_t kTotalsBytes = 64;  // before the sums of blocks
static_assert(sizeof(device::PpoTotals) <= kTotalsBytes, "room for the totals");

int64_t blocks_of(const PpoLossParams& p) { return (p.rows * p.columns + kPpoBlock - 1) / kPpoBlock; }

device::PpoArgs args_of(const PpoLossParams& p, void* scratch) {
  using device::Array;
  device::PpoArgs a;
  a.samples = p.rows * p.columns;
  a.columns = p.columns;
  a.new_log_prob = Array(p.new_log_prob);
  a.old_log_prob = Array(p.old_log_prob);
  a.advantages = Array(p.advantages);
  a.new_values = Array(p.new_values);
  a.old_values = Array(p.old_values);
  a.returns = Array(p.returns);
  a.entropy = Array(p.entropy);
  a.prio_weights = Array(p.prio_weights);
  a.valid = Array(p.valid);
  for (int k = 0; k < 3; ++k) a.gradients[k] = Array(p.gradients[k]);
  a.clip_coef = p.clip_coef;
  a.vf_clip_coef = p.vf_clip_coef;
  a.vf_coef = p.vf_coef;
  a.ent_coef = p.ent_coef;
  a.eps = p.eps;
  a.normalize_advantage = p.normalize_advantage;
  a.loss = p.loss;
  a.statistics = p.statistics;
  a.totals = static_cast<device::PpoTotals*>(scratch);
  a.partial = reinterpret_cast<double*>(static_cast<char*>(scratch) + kTotalsBytes);
  return a;
}

template <class T>
class Pass {
 public:
  Pass(const PpoLossParams& p, const Launch& launch)
      : a_(args_of(p, launch.scratch)),
        has_moments_(p.valid.data != nullptr || p.normalize_advantage),
        blocks_(blocks_of(p)),
        stream_(launch.stream) {}

  cudaError_t run() {
    cudaError_t error = cudaSuccess;
    if (has_moments_) {
      error = stage(device::PpoStage::moments);
      if (error == cudaSuccess && a_.normalize_advantage) error = stage(device::PpoStage::deviations);
    }
    return error == cudaSuccess ? stage(device::PpoStage::terms) : error;
  }

 private:
  // Sums of blocks, then over them.
  cudaError_t stage(device::PpoStage which) {
    using namespace device;
    if (blocks_ > 0) {
      const unsigned blocks = static_cast<unsigned>(blocks_);
      if (which == PpoStage::moments) {
        HL_LAUNCH((ppo_moments_kernel<T>), blocks, kPpoThreads, 0, stream_, a_);
      } else if (which == PpoStage::deviations) {
        HL_LAUNCH((ppo_deviations_kernel<T>), blocks, kPpoThreads, 0, stream_, a_);
      } else {
        HL_LAUNCH((ppo_terms_kernel<T>), blocks, kPpoThreads, 0, stream_, a_);
      }
      const cudaError_t error = cudaGetLastError();
      if (error != cudaSuccess) return error;
    }
    HL_LAUNCH((ppo_finish_kernel<T>), 1, kPpoThreads, 0, stream_, a_, blocks_, which);
    return cudaGetLastError();
  }

  const device::PpoArgs a_;
  const bool has_moments_;
  const int64_t blocks_;
  const cudaStream_t stream_;
};

}  // namespace

int64_t ppo_loss_scratch_bytes(const PpoLossParams& p) {
  return kTotalsBytes + blocks_of(p) * kPpoSums * static_cast<int64_t>(sizeof(double));
}

cudaError_t launch_ppo_loss(const PpoLossParams& p, const Launch& launch) {
  if (launch.scratch == nullptr) return cudaErrorInvalidValue;
  return p.new_log_prob.dtype == DType::f64 ? Pass<double>(p, launch).run() : Pass<float>(p, launch).run();
}

}  // namespace hotloop
