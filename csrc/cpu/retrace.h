#pragma once
#include "../core/estimator_args.h"
#include "isa.h"

namespace hotloop {

// Retrace(lambda) targets for Q, departure-indexed; the baseline is Q of the taken actions.
struct RetraceParams {
  DepartureArgs in;
  Matrix targets;  // [N, T], written
  double c_clip = 1;
};

}  // namespace hotloop

HL_DECLARE_KERNEL_AVX2(retrace, RetraceParams)
