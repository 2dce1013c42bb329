#pragma once
#include "../core/estimator_args.h"
#include "isa.h"

namespace hotloop {

// Generalised advantage estimation, departure-indexed; the baseline is the values.
struct GaeParams {
  DepartureArgs in;
  Matrix advantages, returns;  // [N, T], written; dtype of values
  StatisticsArgs statistics;   // of the advantages of valid steps
};

}  // namespace hotloop

HL_DECLARE_KERNEL(gae, GaeParams)
