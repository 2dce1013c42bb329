#pragma once
#include "isa.h"
#include "../core/joint_runs.h"

namespace hotloop {

using TanhRun = JointRun<2>;  // what is read, and what is written: the same memory, or none in common

struct TanhParams {
  const TanhRun* runs = nullptr;
  int64_t count = 0;
  DType dtype = DType::f32;  // any floating one; bfloat16 and float16 are computed in float32
  int64_t bytes = 0;         // of all runs, which decides whether threads are worth it
};

}  // namespace hotloop

HL_DECLARE_KERNEL(tanh, TanhParams)
