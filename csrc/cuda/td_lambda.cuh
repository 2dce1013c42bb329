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
  Array grad, terminated, truncated, valid, grad_rewards, grad_values, grad_truncation_values, grad_last_values;
  Discounts<T> discounts;

  explicit TdLambdaBackward(const TdLambdaBackwardParams& p)
      : rows(p.in.rows),
        horizon(p.in.horizon),
        grad(p.grad),
        terminated(p.in.terminated),
        truncated(p.in.truncated),
        valid(p.in.valid),
        grad_rewards(p.grad_rewards),
        grad_values(p.grad_values),
        grad_truncation_values(p.grad_truncation_values),
        grad_last_values(p.grad_last_values),
        discounts(p.in.discounts) {}

  template <class I>
  HL_DEVICE bool is_valid(I row, I t) const {
    return flag_or<T>(valid, row, t, true);
  }
  template <class I>
  HL_DEVICE bool terminates(I row, I t) const {
    return flag_or<T>(terminated, row, t, false);
  }
  template <class I>
  HL_DEVICE bool truncates(I row, I t) const {
    return flag_or<T>(truncated, row, t, false);
  }
  template <class I>
  HL_DEVICE bool goes_on(I row, I t) const {
    return is_valid(row, t) & !terminates(row, t) & !truncates(row, t);
  }

  template <class I>
  HL_DEVICE Affine<T> step(I row, I t) const {
    const bool open = t > 0 && goes_on(row, t - 1);
    return {open ? discounts.of(row).decay : T(0), load_at<T>(grad, row, t)};
  }

  template <class I>
  HL_DEVICE void emit(I row, I t, T l, T earlier) const {
    const Discount<T> k = discounts.of(row);
    const bool is_real = is_valid(row, t), open = t > 0 && goes_on(row, t - 1);
    const bool cut_short = truncates(row, t) & !terminates(row, t);
    store_at(grad_rewards, row, t, is_real ? l : T(0));
    store_at(grad_values, row, t, (is_real ? T(0) : l) + (open ? k.rest * earlier : T(0)));
    store_at(grad_truncation_values, row, t, is_real & cut_short ? k.gamma * l : T(0));
    if (t + 1 == static_cast<I>(horizon)) store_at(grad_last_values, row, 0, goes_on(row, t) ? k.gamma * l : T(0));
  }
};

}  // namespace device
}  // namespace hotloop
