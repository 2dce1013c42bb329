// V-trace targets and policy-gradient advantages as an estimator of the recurrence engine.
#pragma once
#include "departure.cuh"
#include "../core/estimator_params.h"

namespace hotloop {
namespace device {

template <class T>
struct VtraceEstimator {
  using Number = T;
  static constexpr bool kForwards = false;
  static constexpr bool kCut = true;

  int64_t rows, horizon;
  DepartureInputs<T, 0> in;
  Array targets, pg_advantages;
  T rho_clip, c_clip, pg_rho_clip;

  explicit VtraceEstimator(const VtraceParams& p)
      : rows(p.in.rows),
        horizon(p.in.horizon),
        in(p.in),
        targets(p.targets),
        pg_advantages(p.pg_advantages),
        rho_clip(static_cast<T>(p.rho_clip)),
        c_clip(static_cast<T>(p.c_clip)),
        pg_rho_clip(static_cast<T>(p.pg_rho_clip)) {}

  template <class E, class Visit>
  HL_EITHER static void arrays(E& e, Visit& visit) {
    DepartureInputs<T, 0>::arrays(e.in, visit);
    visit.required(e.targets, e.pg_advantages);
  }

  template <class I>
  HL_DEVICE Affine<T> step(I row, I t) const {
    const DepartureStep<T> s = in.load(row, t);
    const Affine<T> real = vtrace_step(in.discounts.of(row), rho_clip, c_clip, s.reward, s.baseline, s.bootstrap,
                                       s.ratio, s.continues);
    return s.valid ? real : Affine<T>{T(0), T(0)};
  }

  // min(w, pg_rho_clip) * (TD error + gamma * lambda * (target - V) of the next step), which `y_next` is.
  template <class I>
  HL_DEVICE void emit(I row, I t, T y, T y_next) const {
    const DepartureStep<T> s = in.load(row, t);
    const Discount<T> k = in.discounts.of(row);
    const T delta = td_error(k, s.reward, s.baseline, s.bootstrap);
    const T decay = s.ends ? T(0) : k.decay;
    const T advantage = clip_above(s.ratio, pg_rho_clip) * follow<true>(Affine<T>{decay, delta}, y_next);
    store_at(targets, row, t, y + s.baseline);
    store_at(pg_advantages, row, t, s.valid ? advantage : T(0));
  }
};

}  // namespace device
}  // namespace hotloop
