#pragma once
#include "../core/view.h"
#include "isa.h"

namespace hotloop {

// Generalised advantage estimation, departure-indexed: rewards[t] and the flags at t are the outcome of action t.
struct GaeParams {
  int64_t rows = 0;
  int64_t horizon = 0;
  Matrix rewards, values, terminated;              // [N, T]
  Matrix truncated, truncation_values, valid;      // [N, T] or absent
  Matrix last_values;                              // [N]
  Matrix advantages, returns;                      // [N, T], written; dtype of values
  double gamma = 0, gae_lambda = 0;
};

}  // namespace hotloop

HL_DECLARE_KERNEL(gae, GaeParams)
