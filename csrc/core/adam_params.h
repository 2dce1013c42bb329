// What adam_ is asked to do: the boundary into its kernels.
#pragma once
#include "adam.h"
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

// The same where the numbers of steps lie on a device: it counts them and works out the rates itself.
struct AdamDeviceParams {
  const AdamRun* runs = nullptr;
  int64_t count = 0;
  const DType* dtypes = nullptr;  // [tensors], float32 or float64
  const View* steps = nullptr;    // [tensors] of one number, float32 or float64; written
  int64_t tensors = 0;
  AdamSettings settings;
};

}  // namespace hotloop
