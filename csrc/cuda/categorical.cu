#include "categorical.cuh"

#include "launchers.h"

namespace hotloop {
namespace {

// Calls run(heads, wide) for each launch's share of the heads.
template <class Run>
cudaError_t for_heads(const int64_t* choices, int64_t count, const Run& run) {
  device::Heads heads{};
  bool wide = false;
  for (int64_t head = 0; head < count; ++head) {
    heads.choices[heads.count++] = static_cast<int32_t>(choices[head]);
    heads.columns += choices[head];
    wide = wide || choices[head] > kNarrowHead;
    heads.last = head + 1 == count;
    if (heads.count < device::kHeadsALaunch && !heads.last) continue;
    const cudaError_t error = run(heads, wide);
    if (error != cudaSuccess) return error;
    heads.first += heads.count;
    heads.first_column += heads.columns;
    heads.columns = heads.count = 0;
    wide = false;
  }
  return cudaSuccess;
}

template <class T, bool kDraw>
cudaError_t run(const CategoricalParams& p, const Launch& launch) {
  using namespace device;
  CategoricalArgs a;
  a.rows = p.rows;
  a.logits = Array(p.logits);
  a.mask = Array(p.mask);
  a.actions = Array(p.actions);
  a.log_prob = Array(p.log_prob);
  a.entropy = Array(p.entropy);
  a.saved = Array(p.saved);
  a.log_probs = Array(p.log_probs);
  a.key =
      RandomKey{p.seed, static_cast<uint32_t>(p.step >> 32), static_cast<uint32_t>(p.step), kStreamCategorical};
  a.first_row = p.first_row;
  a.sums = static_cast<double*>(launch.scratch);
  if (p.heads > kHeadsALaunch && a.sums == nullptr) return cudaErrorInvalidValue;
  return for_heads(p.choices, p.heads, [&](const Heads& heads, bool wide) {
    if (wide) {
      HL_LAUNCH((categorical_kernel<T, kChoiceLanes, kDraw>), blocks_for(p.rows, kChoiceThreads / kChoiceLanes),
                kChoiceThreads, 0, launch.stream, a, heads);
    } else {
      HL_LAUNCH((categorical_kernel<T, 1, kDraw>), blocks_for(p.rows, kChoiceThreads), kChoiceThreads, 0,
                launch.stream, a, heads);
    }
    return cudaGetLastError();
  });
}

template <class T>
cudaError_t run_backward(const CategoricalBackwardParams& p, const Launch& launch) {
  using namespace device;
  CategoricalBackwardArgs a;
  a.rows = p.rows;
  a.grad_log_prob = Array(p.grad_log_prob);
  a.grad_entropy = Array(p.grad_entropy);
  a.logits = Array(p.logits);
  a.mask = Array(p.mask);
  a.actions = Array(p.actions);
  a.saved = Array(p.saved);
  a.grad_logits = Array(p.grad_logits);
  return for_heads(p.choices, p.heads, [&](const Heads& heads, bool) {
    HL_LAUNCH((categorical_backward_kernel<T>), blocks_for(p.rows * heads.columns, 2 * kChoiceThreads),
              2 * kChoiceThreads, 0, launch.stream, a, heads);
    return cudaGetLastError();
  });
}

}  // namespace

int64_t categorical_scratch_bytes(const CategoricalParams& p) {
  return p.heads > device::kHeadsALaunch ? p.rows * 2 * static_cast<int64_t>(sizeof(double)) : 0;
}

cudaError_t launch_categorical(const CategoricalParams& p, const Launch& launch) {
  if (p.rows == 0) return cudaSuccess;
  if (p.log_prob.dtype == DType::f64) return p.draw ? run<double, true>(p, launch) : run<double, false>(p, launch);
  return p.draw ? run<float, true>(p, launch) : run<float, false>(p, launch);
}

cudaError_t launch_categorical_backward(const CategoricalBackwardParams& p, const Launch& launch) {
  if (p.rows == 0) return cudaSuccess;
  return p.saved.dtype == DType::f64 ? run_backward<double>(p, launch) : run_backward<float>(p, launch);
}

}  // namespace hotloop
