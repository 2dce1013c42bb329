// The arrival-indexed advantage as an estimator of the recurrence engine.
#pragma once
#include "discounts.cuh"
#include "../core/estimator_params.h"

namespace hotloop {
namespace device {

template <class T>
struct PuffEstimator {
  using Number = T;
  static constexpr bool kForwards = false;
  static constexpr bool kCut = false;

  int64_t rows, horizon;
  Array values, rewards, dones, importance, next_values, next_rewards, next_dones, advantages, returns;
  Discounts<T> discounts;
  T rho_clip, c_clip;

  explicit PuffEstimator(const PuffAdvantageParams& p)
      : rows(p.segments),
        horizon(p.horizon),
        values(p.values),
        rewards(p.rewards),
        dones(p.dones),
        importance(p.importance),
        next_values(p.next_values),
        next_rewards(p.next_rewards),
        next_dones(p.next_dones),
        advantages(p.advantages),
        returns(p.returns),
        discounts(p.discounts),
        rho_clip(static_cast<T>(p.rho_clip)),
        c_clip(static_cast<T>(p.c_clip)) {}

  template <class E, class Visit>
  HL_EITHER static void arrays(E& e, Visit& visit) {
    visit.required(e.values, e.rewards, e.dones, e.importance, e.advantages);
    visit.numbers(e.returns);
    visit.columns(e.next_values, e.next_rewards, e.next_dones);
    visit.discounts(e.discounts);
  }

  template <class I>
  HL_DEVICE Affine<T> step(I row, I t) const {
    const Affine<T> known = puff_step(
        discounts.of(row), rho_clip, c_clip, load_at<T>(values, row, t),
        load_later<T>(values, next_values, horizon, row, t), load_later<T>(rewards, next_rewards, horizon, row, t),
        load_later<T>(dones, next_dones, horizon, row, t), load_at<T>(importance, row, t));
    // Nothing is known of what arrives after the last step, where the caller has not told.
    return t + 1 == static_cast<I>(horizon) && !next_values.given() ? Affine<T>{T(0), T(0)} : known;
  }

  template <class I>
  HL_DEVICE void emit(I row, I t, T y, T) const {
    store_at(advantages, row, t, y);
    if (returns.given()) store_at(returns, row, t, y + load_at<T>(values, row, t));
  }
};

}  // namespace device
}  // namespace hotloop
