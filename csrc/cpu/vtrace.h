#pragma once
#include "../core/estimator_args.h"
#include "isa.h"

namespace hotloop {

// V-trace targets and policy-gradient advantages, departure-indexed; the baseline is the values.
struct VtraceParams {
  DepartureArgs in;
  Matrix targets, pg_advantages;  // [N, T], written
  double rho_clip = 1, c_clip = 1, pg_rho_clip = 1;
};

}  // namespace hotloop

HL_DECLARE_KERNEL_AVX2(vtrace, VtraceParams)
