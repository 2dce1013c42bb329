// Lambda-weighted sums of arrival-indexed TD errors, and their gradients.
#pragma once
#include "discounts.cuh"
#include "../core/estimator_params.h"

namespace hotloop {
namespace device {

// kMasked: a step that is not valid cuts the trace exactly; without `valid` the plain formula holds.
template <class T, bool kMasked>
struct DeltaLambda {
  using Number = T;
  static constexpr bool kForwards = false;
  static constexpr bool kCut = kMasked;

  int64_t rows, horizon;
  Array values, rewards, dones, valid, next_values, next_rewards, next_dones, out;
  Discounts<T> discounts;

  explicit DeltaLambda(const DeltaLambdaParams& p)
      : rows(p.segments),
        horizon(p.horizon),
        values(p.values),
        rewards(p.rewards),
        dones(p.dones),
        valid(p.valid),
        next_values(p.next_values),
        next_rewards(p.next_rewards),
        next_dones(p.next_dones),
        out(p.out),
        discounts(p.discounts) {}

  template <class E, class Visit>
  HL_EITHER static void arrays(E& e, Visit& visit) {
    visit.required(e.values, e.rewards, e.dones, e.out);
    visit.flags(e.valid);
    visit.columns(e.next_values, e.next_rewards, e.next_dones);
    visit.discounts(e.discounts);
  }

  template <class I>
  HL_DEVICE Affine<T> step(I row, I t) const {
    const Affine<T> known = delta_lambda_step(
        discounts.of(row), load_at<T>(values, row, t), load_later<T>(values, next_values, horizon, row, t),
        load_later<T>(rewards, next_rewards, horizon, row, t), load_later<T>(dones, next_dones, horizon, row, t));
    // Nothing is known of what arrives after the last step, where the caller has not told.
    const bool told = t + 1 < static_cast<I>(horizon) || next_values.given();
    return told && (!kMasked || flag_or<T>(valid, row, t, true)) ? known : Affine<T>{T(0), T(0)};
  }

  template <class I>
  HL_DEVICE void emit(I row, I t, T y, T) const {
    store_at(out, row, t, y);
  }
};

// l[t] = grad[t] + gamma * lambda * (1 - d[t]) * l[t-1] is the gradient of the TD error of step t; it is 0, and
// nothing comes from it, where step t is not valid.
template <class T>
struct DeltaLambdaBackward {
  using Number = T;
  static constexpr bool kForwards = true;
  static constexpr bool kCut = true;

  int64_t rows, horizon;
  Array grad, dones, valid, next_dones, grad_values, grad_rewards, grad_next_values, grad_next_rewards;
  Discounts<T> discounts;

  explicit DeltaLambdaBackward(const DeltaLambdaBackwardParams& p)
      : rows(p.segments),
        horizon(p.horizon),
        grad(p.grad),
        dones(p.dones),
        valid(p.valid),
        next_dones(p.next_dones),
        grad_values(p.grad_values),
        grad_rewards(p.grad_rewards),
        grad_next_values(p.grad_next_values),
        grad_next_rewards(p.grad_next_rewards),
        discounts(p.discounts) {}

  template <class I>
  HL_DEVICE Affine<T> step(I row, I t) const {
    if (t + 1 == static_cast<I>(horizon) && !next_dones.given()) return {T(0), T(0)};  // the column is constant
    if (!flag_or<T>(valid, row, t, true)) return {T(0), T(0)};
    return {discounts.of(row).decay * (T(1) - load_at<T>(dones, row, t)), load_at<T>(grad, row, t)};
  }

  template <class I>
  HL_DEVICE void emit(I row, I t, T l, T earlier) const {
    const T gamma = discounts.of(row).gamma;
    store_at(grad_values, row, t, gamma * (T(1) - load_at<T>(dones, row, t)) * earlier - l);
    store_at(grad_rewards, row, t, earlier);
    if (t + 1 < static_cast<I>(horizon)) return;
    store_at(grad_next_values, row, 0, gamma * (T(1) - load_or<T>(next_dones, row, 0, T(0))) * l);
    store_at(grad_next_rewards, row, 0, l);
  }
};

}  // namespace device
}  // namespace hotloop
