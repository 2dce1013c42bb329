// What each estimator is asked to do: the boundary into its kernels, on every device.
#pragma once
#include "estimator_args.h"

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

// Generalised advantage estimation, departure-indexed; the baseline is the values.
struct GaeParams {
  DepartureArgs in;
  Matrix advantages, returns;  // [N, T], written; dtype of values
  StatisticsArgs statistics;   // of the advantages of valid steps
};

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

// V-trace targets and policy-gradient advantages, departure-indexed; the baseline is the values.
struct VtraceParams {
  DepartureArgs in;
  Matrix targets, pg_advantages;  // [N, T], written
  double rho_clip = 1, c_clip = 1, pg_rho_clip = 1;
};

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

// Retrace(lambda) targets for Q, departure-indexed; the baseline is Q of the taken actions.
struct RetraceParams {
  DepartureArgs in;
  Matrix targets;  // [N, T], written
  double c_clip = 1;
};

// y[t] = a[t] * y[t+1] + b[t], y[T] = last or 0.
struct ReverseScanParams {
  int64_t rows = 0;
  int64_t horizon = 0;
  Matrix a, b;   // [N, T]
  Matrix last;   // [N] or absent
  Matrix out;    // [N, T], written; dtype of b
};

// The gradients of the above: with l[t] = grad[t] + a[t-1] * l[t-1],
//   grad_b[t] = l[t],  grad_a[t] = l[t] * y[t+1],  grad_last = a[T-1] * l[T-1].
struct ReverseScanBackwardParams {
  int64_t rows = 0;
  int64_t horizon = 0;
  Matrix grad, a, y;  // [N, T]
  Matrix last;        // [N] or absent
  Matrix grad_a, grad_b;  // [N, T], written
  Matrix grad_last;       // [N], written
};

}  // namespace hotloop
