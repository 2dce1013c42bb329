#pragma once
#include "isa.h"
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

}  // namespace hotloop

HL_DECLARE_KERNEL_AVX2(square_sums, SquareSumsParams)
HL_DECLARE_KERNEL_AVX2(scale_runs, ScaleRunsParams)
