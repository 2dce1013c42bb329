#pragma once
#include "../core/adam.h"
#include "isa.h"
#include "joint_runs.h"

namespace hotloop {

enum AdamView { kParameter, kGradient, kMean, kSquare, kAdamViews };

struct AdamRun {
  JointRun<kAdamViews> at;
  int64_t tensor;  // whose rates hold
};

// One step of Adam on all runs, each in place. The rates of tensor i are those of its dtype.
struct AdamParams {
  const AdamRun* runs = nullptr;
  int64_t count = 0;
  const DType* dtypes = nullptr;               // [tensors], float32 or float64
  const AdamRates<float>* rates32 = nullptr;   // [tensors]
  const AdamRates<double>* rates64 = nullptr;  // [tensors]
  int64_t bytes = 0;                           // of all runs, which decides whether threads are worth it
};

}  // namespace hotloop

HL_DECLARE_KERNEL_AVX2(adam, AdamParams)
