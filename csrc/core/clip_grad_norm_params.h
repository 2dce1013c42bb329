// What clip_grad_norm_ is asked to do: the boundary into its kernels.
#pragma once
#include "joint_runs.h"

namespace hotloop {

struct GradientRun {
  JointRun<1> at;
  DType dtype = DType::f32;  // floating
};

// sums[i] = sum of the squares of run i, in double and in an order of its own: same bits whatever the threads.
struct SquareSumsParams {
  const GradientRun* runs = nullptr;
  int64_t count = 0;
  double* sums = nullptr;  // [count], written
  int64_t bytes = 0;       // of all runs, which decides whether threads are worth it
};

// Every element times `factor`, rounded once; half-precision elements in float32.
struct ScaleRunsParams {
  const GradientRun* runs = nullptr;  // written in place
  int64_t count = 0;
  double factor = 1;
  int64_t bytes = 0;
};

// Both, and what lies between them, where the norm stays on a device.
struct ClipGradNormParams {
  const GradientRun* runs = nullptr;  // written in place
  int64_t count = 0;
  double max_norm = 0;
  View norm;  // one number, float32 or float64; written
};

// What the gradients are multiplied by; from 1 on they are left alone. NaN is not, and reaches every gradient.
HL_HD double clip_factor(double max_norm, double norm) { return max_norm / (norm + 1e-6); }

}  // namespace hotloop
