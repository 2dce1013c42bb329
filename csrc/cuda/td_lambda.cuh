// TD(lambda) returns, and their gradients, over departure-indexed steps.
#pragma once
#include "departure.cuh"
#include "../core/estimator_params.h"

namespace hotloop {
namespace device {

template <class T>
struct TdLambdaFormula {
  static constexpr int kRatioShift = 0;

  HL_DEVICE Affine<T> step(const DepartureStep<T>& s, const Discount<T>& k) const {
    return td_lambda_step(k, s.reward, s.bootstrap, s.continues);
  }
  HL_DEVICE T idle(const DepartureStep<T>& s) const { return s.value; }
};

// With l[t] = grad[t] + a[t-1] * l[t-1], the gradient of the coefficient b[t]; where `open`, b[t-1] contains
// gamma * (1 - lambda) * V[t].
template <class T>
struct TdLambdaBackward {
  using Number = T;
  static constexpr bool kForwards = true;
  static constexpr bool kCut = true;

  int64_t rows, horizon;
  TdLambdaBackwardParams p;
  Discounts<T> discounts;

  explicit TdLambdaBackward(const TdLambdaBackwardParams& params)
      : rows(params.in.rows), horizon(params.in.horizon), p(params), discounts(params.in.discounts) {}

  HL_DEVICE bool is_valid(int64_t row, int64_t t) const { return flag_or<T>(p.in.valid, row, t, true); }
  HL_DEVICE bool terminates(int64_t row, int64_t t) const { return flag_or<T>(p.in.terminated, row, t, false); }
  HL_DEVICE bool truncates(int64_t row, int64_t t) const { return flag_or<T>(p.in.truncated, row, t, false); }
  HL_DEVICE bool goes_on(int64_t row, int64_t t) const {
    return is_valid(row, t) & !terminates(row, t) & !truncates(row, t);
  }

  HL_DEVICE Affine<T> step(int64_t row, int64_t t) const {
    const bool open = t > 0 && goes_on(row, t - 1);
    return {open ? discounts.of(row).decay : T(0), load_at<T>(p.grad, row, t)};
  }

  HL_DEVICE void emit(int64_t row, int64_t t, T l, T earlier) const {
    const Discount<T> k = discounts.of(row);
    const bool valid = is_valid(row, t), open = t > 0 && goes_on(row, t - 1);
    const bool cut_short = truncates(row, t) & !terminates(row, t);
    store_at(p.grad_rewards, row, t, valid ? l : T(0));
    store_at(p.grad_values, row, t, (valid ? T(0) : l) + (open ? k.rest * earlier : T(0)));
    store_at(p.grad_truncation_values, row, t, valid & cut_short ? k.gamma * l : T(0));
    if (t + 1 == horizon) store_at(p.grad_last_values, row, 0, goes_on(row, t) ? k.gamma * l : T(0));
  }
};

}  // namespace device
}  // namespace hotloop
