#pragma once
#include "../core/estimator_args.h"
#include "isa.h"

namespace hotloop {

// A[t] = delta[t] + gamma * lambda * min(w, c_clip) * (1 - d[t+1]) * A[t+1], arrival-indexed, [S, T].
struct PuffAdvantageParams {
  int64_t segments = 0;
  int64_t horizon = 0;
  Matrix values, rewards, dones, importance;             // [S, T]
  Matrix next_values, next_rewards, next_dones;          // [S], all or none: what arrived at step T
  Matrix advantages;                                     // [S, T], written; dtype of values
  Matrix returns;                                        // [S, T] or absent, written: advantages + values
  StatisticsArgs statistics;                             // of all advantages
  DiscountArgs discounts;
  double rho_clip = 0, c_clip = 0;
};

}  // namespace hotloop

HL_DECLARE_KERNEL(puff_advantage, PuffAdvantageParams)
