#pragma once
#include "../core/estimator_args.h"
#include "isa.h"

namespace hotloop {

// TD(lambda) returns, departure-indexed; without values and with lambda = 1 the discounted return.
struct TdLambdaParams {
  DepartureArgs in;
  Matrix returns;  // [N, T], written
};

// Of `in` only the flags and the discounts are read. A step that is not valid passes its gradient to its value.
struct TdLambdaBackwardParams {
  DepartureArgs in;
  Matrix grad;                                              // [N, T]
  Matrix grad_rewards, grad_values, grad_truncation_values;  // [N, T], written
  Matrix grad_last_values;                                  // [N], written
};

}  // namespace hotloop

HL_DECLARE_KERNEL_AVX2(td_lambda, TdLambdaParams)
HL_DECLARE_KERNEL_AVX2(td_lambda_backward, TdLambdaBackwardParams)
