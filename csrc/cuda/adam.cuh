// One step of Adam on all tensors. Their numbers of steps lie on the device, so what depends on them is worked out there.
#pragma once
#include "element.cuh"
#include "leaf_table.cuh"
#include "../core/adam_params.h"

namespace hotloop {
namespace device {

constexpr int kStepsALaunch = 248;  // with their tables, parameters
constexpr int kAdamTensorsALaunch = 45;  // stay below 4 KiB
using AdamTable = LeafTable<kAdamViews, kAdamTensorsALaunch>;

struct StepOf {
  char* step;
  DType step_dtype, dtype;
};

struct StepTable {
  StepOf tensors[kStepsALaunch];
  int32_t count;
  int64_t first;
};

// The rates of a tensor, those of its dtype.
union RatesOf {
  AdamRates<float> narrow;
  AdamRates<double> wide;
};

// A thread a tensor: counts the step that begins.
static __global__ void __launch_bounds__(kStepsALaunch)
    adam_rates_kernel(const StepTable table, const AdamSettings settings, RatesOf* rates) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= table.count) return;
  const StepOf& tensor = table.tensors[thread];
  double number;
  if (tensor.step_dtype == DType::f64) {
    number = *reinterpret_cast<double*>(tensor.step) += 1;
  } else {
    auto* step = reinterpret_cast<float*>(tensor.step);
    number = static_cast<double>(*step) + 1;
    *step += 1;
  }
  if (tensor.dtype == DType::f64) {
    rates[table.first + thread].wide = adam_rates<double>(settings, number);
  } else {
    rates[table.first + thread].narrow = adam_rates<float>(settings, number);
  }
}

template <class T>
HL_DEVICE void adam_element(const AdamRates<T>& rates, const Leaf<kAdamViews>& leaf, int64_t i) {
  auto* parameter = reinterpret_cast<T*>(leaf.at(kParameter, i));
  auto* mean = reinterpret_cast<T*>(leaf.at(kMean, i));
  auto* square = reinterpret_cast<T*>(leaf.at(kSquare, i));
  const T gradient = *reinterpret_cast<const T*>(leaf.at(kGradient, i));
  T p = *parameter, m = *mean, v = *square;
  if (rates.l2 != T(0)) {
    adam_update<true>(rates, gradient, &p, &m, &v);
  } else {
    adam_update<false>(rates, gradient, &p, &m, &v);
  }
  *parameter = p;
  *mean = m;
  *square = v;
}

constexpr int kAdamThreads = 256;
constexpr int kAdamParts = 8;  // blocks of a piece

// Of tensors of dtype T.
template <class T>
__global__ void __launch_bounds__(kAdamThreads, 2) adam_kernel(const AdamTable table, const RatesOf* all_rates) {
  const int64_t piece = blockIdx.x;
  const Leaf<kAdamViews>& leaf = table.leaves[leaf_of(table, piece)];
  AdamRates<T> rates;  // a copy, which no write below can change
  if constexpr (sizeof(T) == sizeof(double)) {
    rates = all_rates[leaf.tensor].wide;
  } else {
    rates = all_rates[leaf.tensor].narrow;
  }
  const int64_t part = kMaxRun / kAdamParts;
  const int64_t start = (piece - leaf.first) * kMaxRun + static_cast<int64_t>(blockIdx.y) * part;
  const int64_t end = start + part < leaf.count ? start + part : leaf.count;
  for (int64_t i = start + threadIdx.x; i < end; i += kAdamThreads) {
    adam_element(rates, leaf, i);
  }
}

}  // namespace device
}  // namespace hotloop
