// PPO's loss: terms, gradients and sums in the order of the CPU, which is 16 partial sums for each block of samples,
// added pairwise, and the blocks one after the other.
#pragma once
#include "element.cuh"
#include "ordered_sums.cuh"
#include "../core/ppo.h"

namespace hotloop {
namespace device {

constexpr int kPpoThreads = 256;
constexpr int kPpoLanes = 16;  // partial sums of a block of samples
constexpr int kPpoStride = kPpoThreads + kPpoLanes;  // two sums are then read from different banks
static_assert(kPpoBlock % kPpoThreads == 0 && kPpoSums * kPpoLanes <= kPpoThreads, "a thread a partial sum");

// What the terms need of all samples, and the memory that the kernels hand each other.
struct PpoTotals {
  double count, mean, scale;
};

struct PpoArgs {
  int64_t samples, columns;
  Array new_log_prob, old_log_prob, advantages, new_values, old_values, returns, entropy, prio_weights, valid;
  Array gradients[3];
  double clip_coef, vf_clip_coef, vf_coef, ent_coef, eps;
  bool normalize_advantage;
  char* loss;
  double* statistics;
  PpoTotals* totals;
  double* partial;  // [blocks, kPpoSums]

  HL_DEVICE double count() const { return valid.given() ? totals->count : static_cast<double>(samples); }
  HL_DEVICE double share() const {
    const double all = count();
    return all > 1 ? all : 1;
  }
};

template <class T>
struct PpoSample {
  const PpoArgs& a;
  int64_t row, column;
  bool keep;

  HL_DEVICE PpoSample(const PpoArgs& args, int64_t i)
      : a(args),
        row(i / args.columns),
        column(i % args.columns),
        keep(flag_or<T>(args.valid, row, column, true)) {}

  // Where the sample does not count, whatever stands there becomes `filler`.
  HL_DEVICE T load(const Array& m, T filler) const { return keep ? load_at<T>(m, row, column) : filler; }
};

// One block: sums over the samples of one block of the loss, of what `terms(i, out)` makes of sample i.
template <class T, int kSums, class Staged, class Terms>
HL_DEVICE void sum_samples(const PpoArgs& a, Staged& staged, const Terms& terms) {
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t block = blockIdx.x;
  const int64_t end = (block + 1) * kPpoBlock < a.samples ? (block + 1) * kPpoBlock : a.samples;
  const int number = thread / kPpoLanes, lane = thread % kPpoLanes;
  double sum = 0;
  for (int64_t start = block * kPpoBlock; start < end; start += kPpoThreads) {
    const int count = static_cast<int>(end - start < kPpoThreads ? end - start : kPpoThreads);
    if (thread < count) {
      T out[kSums];
      terms(start + thread, out);
      HL_UNROLL
      for (int k = 0; k < kSums; ++k) staged[k * kPpoStride + thread] = out[k];
    }
    __syncthreads();
    for (int i = lane; number < kSums && i < count; i += kPpoLanes) {
      sum += static_cast<double>(static_cast<T>(staged[number * kPpoStride + i]));
    }
    __syncthreads();
  }
  for (int width = kPpoLanes / 2; width > 0; width /= 2) sum += __shfl_down_sync(kAllLanes, sum, width, kPpoLanes);
  if (lane == 0 && number < kSums) a.partial[block * kPpoSums + number] = sum;
}

// How many samples count, and the sum of their advantages.
template <class T>
__global__ void __launch_bounds__(kPpoThreads) ppo_moments_kernel(const PpoArgs a) {
  HL_SHARED(T, staged, 2 * kPpoStride);
  sum_samples<T, 2>(a, staged, [&](int64_t i, T* out) {
    const PpoSample<T> sample(a, i);
    out[0] = sample.keep ? T(1) : T(0);
    out[1] = a.normalize_advantage ? sample.load(a.advantages, T(0)) - T(0) : T(0);
  });
}

// The squares of their distances from the mean.
template <class T>
__global__ void __launch_bounds__(kPpoThreads) ppo_deviations_kernel(const PpoArgs a) {
  HL_SHARED(T, staged, kPpoStride);
  const T mean = static_cast<T>(a.totals->mean);
  sum_samples<T, 1>(a, staged, [&](int64_t i, T* out) {
    const T d = PpoSample<T>(a, i).load(a.advantages, mean) - mean;
    out[0] = d * d;
  });
}

template <class T>
__global__ void __launch_bounds__(kPpoThreads, 2) ppo_terms_kernel(const PpoArgs a) {
  HL_SHARED(T, staged, kPpoSums * kPpoStride);
  const T mean = a.normalize_advantage ? static_cast<T>(a.totals->mean) : T(0);
  const T scale = a.normalize_advantage ? static_cast<T>(a.totals->scale) : T(1);
  const T share = T(1 / a.share());
  const T clip = static_cast<T>(a.clip_coef), vf_clip = static_cast<T>(a.vf_clip_coef);
  const T value_share = static_cast<T>(a.vf_coef) * share, entropy_share = static_cast<T>(-a.ent_coef) * share;
  sum_samples<T, kPpoSums>(a, staged, [&](int64_t i, T* out) {
    const PpoSample<T> sample(a, i);
    const T keep = sample.keep ? T(1) : T(0);
    const T new_log_prob = sample.load(a.new_log_prob, T(0));
    const T log_ratio = new_log_prob - sample.load(a.old_log_prob, T(0));
    const T weight = a.prio_weights.given() ? sample.load(a.prio_weights, T(1)) : T(1);
    const T advantage = scaled_advantage(sample.load(a.advantages, mean), mean, scale, weight);
    const PolicyTerm<T> policy = policy_term(log_ratio, advantage, clip);
    const T old_value = sample.load(a.old_values, T(0)), target = sample.load(a.returns, T(0));
    const ValueTerm<T> value = value_term(sample.load(a.new_values, T(0)), old_value, target, vf_clip);
    const T residual = target - old_value;
    out[0] = policy.loss;
    out[1] = value.loss;
    out[2] = sample.load(a.entropy, T(0));
    out[3] = kl_estimate(policy.ratio, log_ratio);
    out[4] = policy.clipped;
    out[5] = policy.ratio * keep;
    out[6] = new_log_prob;
    out[7] = target;
    out[8] = target * target;
    out[9] = residual;
    out[10] = residual * residual;
    if (!a.gradients[0].given()) return;
    store_at(a.gradients[0], sample.row, sample.column, policy.gradient * share);
    store_at(a.gradients[1], sample.row, sample.column, value.gradient * value_share);
    store_at(a.gradients[2], sample.row, sample.column, entropy_share * keep);
  });
}

enum class PpoStage { moments, deviations, terms };

// One block: the sums over all blocks, and what follows from them.
template <class T>
__global__ void __launch_bounds__(kPpoThreads, 1)
    ppo_finish_kernel(const PpoArgs a, const int64_t blocks, const PpoStage stage) {
  HL_SHARED(double, staged, kStagedSums);
  HL_SHARED(double, sums, kPpoSums);
  const int columns = stage == PpoStage::terms ? static_cast<int>(kPpoSums) : stage == PpoStage::moments ? 2 : 1;
  const double sum = sum_rows(a.partial, blocks, kPpoSums, 0, columns, staged);
  if (threadIdx.x < kPpoSums) sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (stage == PpoStage::moments) {
    a.totals->count = sums[0];
    a.totals->mean = static_cast<double>(sums[1]) / a.share();
  } else if (stage == PpoStage::deviations) {
    a.totals->scale = advantage_scale(sums[0], a.count(), a.eps);
  } else {
    double all[kPpoSums];
    HL_UNROLL
    for (int k = 0; k < kPpoSums; ++k) all[k] = sums[k];
    const double loss = ppo_statistics(all, a.count(), a.ent_coef, a.vf_coef, a.statistics);
    *reinterpret_cast<T*>(a.loss) = static_cast<T>(loss);
  }
}

}  // namespace device
}  // namespace hotloop
