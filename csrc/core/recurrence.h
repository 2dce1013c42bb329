// The formulas of the estimators, once, for host and device: each estimator maps a step to the coefficients of
//   y[t] = a[t] * y[t+1] + b[t]
// The order of the operations is part of the definition: hotloop.ops.reference rounds in the same order, and the
// build forbids contraction into fused multiply-add, so results agree to the last bit on every instruction set.
#pragma once
#include "dtype.h"

namespace hotloop {

template <class T>
struct Affine {
  T a;
  T b;
};

// min that lets NaN through: a NaN ratio must not turn silently into the clip value.
template <class T>
HL_HD T clip_above(T x, T limit) {
  return limit < x ? limit : x;
}

template <class T>
struct PuffCoefficients {
  T gamma;
  T decay;  // gamma * lambda
  T rho_clip;
  T c_clip;
};

// Arrival-indexed: the reward and done that arrive with observation t+1 are the outcome of action t.
template <class T>
HL_HD Affine<T> puff_step(const PuffCoefficients<T>& k, T value, T value_next, T reward_next, T done_next,
                          T importance) {
  const T alive = T(1) - done_next;
  const T rho = clip_above(importance, k.rho_clip);
  const T c = clip_above(importance, k.c_clip);
  const T delta = rho * (reward_next + k.gamma * alive * value_next - value);
  return {k.decay * c * alive, delta};
}

template <class T>
struct GaeCoefficients {
  T gamma;
  T decay;
};

// Departure-indexed. `value_next` is already the bootstrap of the step: 0, V(final observation) or V[t+1].
template <class T>
HL_HD T gae_delta(const GaeCoefficients<T>& k, T reward, T value, T value_next) {
  return reward + k.gamma * value_next - value;
}

}  // namespace hotloop
