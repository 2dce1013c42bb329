#pragma once
#include "../core/estimator_args.h"
#include "isa.h"

namespace hotloop {

// Lambda-weighted sums of TD errors, arrival-indexed, [S, T].
struct DeltaLambdaParams {
  int64_t segments = 0;
  int64_t horizon = 0;
  Matrix values, rewards, dones;                 // [S, T]
  Matrix valid;                                  // [S, T] or absent
  Matrix next_values, next_rewards, next_dones;  // [S], all or none: what arrived at step T
  Matrix out;                                    // [S, T], written; dtype of values
  DiscountArgs discounts;
};

struct DeltaLambdaBackwardParams {
  int64_t segments = 0;
  int64_t horizon = 0;
  Matrix grad, dones;  // [S, T]
  Matrix valid;        // [S, T] or absent
  Matrix next_dones;   // [S] or absent: then the last column is constant
  Matrix grad_values, grad_rewards;            // [S, T], written
  Matrix grad_next_values, grad_next_rewards;  // [S], written
  DiscountArgs discounts;
};

}  // namespace hotloop

HL_DECLARE_KERNEL_AVX2(delta_lambda, DeltaLambdaParams)
HL_DECLARE_KERNEL_AVX2(delta_lambda_backward, DeltaLambdaBackwardParams)
