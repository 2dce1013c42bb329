// Arguments that estimators share.
#pragma once
#include "view.h"

namespace hotloop {

// gamma and lambda: a scalar each, or one a row, [N]; then the scalar is not read.
struct DiscountArgs {
  double gamma = 0, gae_lambda = 0;
  Matrix gammas, gae_lambdas;
};

static inline bool per_row(const DiscountArgs& d) {
  return d.gammas.data != nullptr || d.gae_lambdas.data != nullptr;
}

// Departure-indexed rewards and flags: rewards[t] and the flags at t are the outcome of action t.
struct DepartureArgs {
  int64_t rows = 0;
  int64_t horizon = 0;
  Matrix rewards;                              // [N, T]
  Matrix values;                               // [N, T] or absent: zeros; what a step bootstraps from
  Matrix baseline;                             // [N, T] or absent: zeros; what a step's error is taken from
  Matrix terminated;                           // [N, T]
  Matrix truncated, truncation_values, valid;  // [N, T] or absent; the first two together
  Matrix importance;                           // [N, T] or absent
  Matrix last_values;                          // [N] or absent: zeros
  Matrix next_values;                          // [N, T] or absent: V[t+1] of `values`; on the host only
  DType dtype = DType::f32;                    // of the results
  DiscountArgs discounts;
};

// What an estimator tells of its advantages on request, while they are in the cache.
constexpr int64_t kSummarySize = 6;  // count, mean, sum of squared deviations, non-finite, first row, first step

struct StatisticsArgs {
  Matrix priorities;  // [N] or absent
  double* summary = nullptr;  // [kSummarySize] or absent
  double* partials = nullptr;  // room for [N, kSummarySize], where there is a summary
};

}  // namespace hotloop
