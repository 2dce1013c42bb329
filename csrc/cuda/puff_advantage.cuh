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
  PuffAdvantageParams p;
  Discounts<T> discounts;
  T rho_clip, c_clip;

  explicit PuffEstimator(const PuffAdvantageParams& params)
      : rows(params.segments),
        horizon(params.horizon),
        p(params),
        discounts(params.discounts),
        rho_clip(static_cast<T>(params.rho_clip)),
        c_clip(static_cast<T>(params.c_clip)) {}

  HL_DEVICE Affine<T> step(int64_t row, int64_t t) const {
    // Nothing is known of what arrives after the last step, where the caller has not told.
    if (t + 1 == horizon && p.next_values.data == nullptr) return {T(0), T(0)};
    return puff_step(discounts.of(row), rho_clip, c_clip, load_at<T>(p.values, row, t),
                     load_later<T>(p.values, p.next_values, horizon, row, t),
                     load_later<T>(p.rewards, p.next_rewards, horizon, row, t),
                     load_later<T>(p.dones, p.next_dones, horizon, row, t), load_at<T>(p.importance, row, t));
  }

  HL_DEVICE void emit(int64_t row, int64_t t, T y, T) const {
    store_at(p.advantages, row, t, y);
    if (p.returns.data != nullptr) store_at(p.returns, row, t, y + load_at<T>(p.values, row, t));
  }
};

}  // namespace device
}  // namespace hotloop
