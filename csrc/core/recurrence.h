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

// One step of the recurrence. kCut: a coefficient of exactly zero cuts the trace, so that not even NaN or infinity
// beyond a boundary leaks (0 * y is NaN then, and 0 for every finite y).
template <bool kCut, class T>
HL_HD T follow(const Affine<T>& step, T y) {
  T carried = step.a * y;
  if (kCut) carried = step.a == T(0) && carried != T(0) ? T(0) : carried;
  return step.b + carried;
}

template <class T>
struct Discount {
  T gamma;
  T decay;  // gamma * lambda
  T rest;  // gamma * (1 - lambda)
};

template <class T>
HL_HD Discount<T> make_discount(T gamma, T gae_lambda) {
  return {gamma, gamma * gae_lambda, gamma * (T(1) - gae_lambda)};
}

// min that lets NaN through: a NaN ratio must not turn silently into the clip value.
template <class T>
HL_HD T clip_above(T x, T limit) {
  return limit < x ? limit : x;
}

// Arrival-indexed: the reward and done that arrive with observation t+1 are the outcome of action t.
template <class T>
HL_HD Affine<T> puff_step(const Discount<T>& k, T rho_clip, T c_clip, T value, T value_next, T reward_next,
                          T done_next, T importance) {
  const T alive = T(1) - done_next;
  const T rho = clip_above(importance, rho_clip);
  const T c = clip_above(importance, c_clip);
  const T delta = rho * (reward_next + k.gamma * alive * value_next - value);
  return {k.decay * c * alive, delta};
}

// The same without ratios.
template <class T>
HL_HD Affine<T> delta_lambda_step(const Discount<T>& k, T value, T value_next, T reward_next, T done_next) {
  const T alive = T(1) - done_next;
  return {k.decay * alive, reward_next + k.gamma * alive * value_next - value};
}

// Departure-indexed, here and below. `bootstrap` is the value of what follows the step: 0, V(final observation) or
// V[t+1]; `continues`: whether the next step belongs to the same episode and lies in the row.
template <class T>
HL_HD T td_error(const Discount<T>& k, T reward, T value, T bootstrap) {
  return reward + k.gamma * bootstrap - value;
}

template <class T>
HL_HD Affine<T> gae_step(const Discount<T>& k, T reward, T value, T bootstrap, bool continues) {
  return {continues ? k.decay : T(0), td_error(k, reward, value, bootstrap)};
}

// y is the return itself: r + gamma * ((1 - lambda) * V[t+1] + lambda * y[t+1]).
template <class T>
HL_HD Affine<T> td_lambda_step(const Discount<T>& k, T reward, T bootstrap, bool continues) {
  return {continues ? k.decay : T(0), reward + (continues ? k.rest : k.gamma) * bootstrap};
}

// y is the target minus V.
template <class T>
HL_HD Affine<T> vtrace_step(const Discount<T>& k, T rho_clip, T c_clip, T reward, T value, T bootstrap,
                            T importance, bool continues) {
  const T a = k.decay * clip_above(importance, c_clip);
  const T b = clip_above(importance, rho_clip) * td_error(k, reward, value, bootstrap);
  return {continues ? a : T(0), b};
}

// y is the target minus Q. The trace is cut by the ratio of the next action: Q[t] is of an action taken already.
template <class T>
HL_HD Affine<T> retrace_step(const Discount<T>& k, T c_clip, T reward, T q_value, T bootstrap, T importance_next,
                             bool continues) {
  const T a = k.decay * clip_above(importance_next, c_clip);
  return {continues ? a : T(0), td_error(k, reward, q_value, bootstrap)};
}

}  // namespace hotloop
