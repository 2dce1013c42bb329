// The terms of PPO's loss for one sample and their derivatives, as plain torch's autograd gives them: a clamp passes
// the gradient on its edges, a maximum of two equal numbers half of it to each.
#pragma once
#include <cmath>

#include "exponential.h"
#include "ppo_params.h"

namespace hotloop {

template <class T>
HL_HD T clamp(T x, T low, T high) {
  x = x < low ? low : x;  // in this order NaN stays NaN
  return x > high ? high : x;
}

template <class T>
HL_HD T scaled_advantage(T advantage, T mean, T scale, T weight) {
  return weight * ((advantage - mean) / scale);
}

// What advantages are divided by: the sample standard deviation and eps.
HL_HD double advantage_scale(double squares, double count, double eps) {
  return ::sqrt(squares / (count > 2 ? count - 1 : 1)) + eps;
}

template <class T>
struct PolicyTerm {
  T ratio;  // exp of the log ratio, clamped to [-10, 10]
  T loss;  // max(-A r, -A clip(r, 1 - c, 1 + c))
  T gradient;  // with respect to the new log probability
  T clipped;  // 1 where |r - 1| > c
};

template <class T>
HL_HD PolicyTerm<T> policy_term(T log_ratio, T advantage, T clip) {
  PolicyTerm<T> term;
  term.ratio = exponential(clamp(log_ratio, T(-10), T(10)));
  const T limited = clamp(term.ratio, T(1) - clip, T(1) + clip);
  const T free_loss = -advantage * term.ratio;
  const T clipped_loss = -advantage * limited;
  term.loss = free_loss > clipped_loss ? free_loss : clipped_loss;
  const T distance = term.ratio - T(1);
  term.clipped = (distance < T(0) ? -distance : distance) > clip ? T(1) : T(0);
  const T tie = free_loss == clipped_loss ? T(0.5) : T(0);
  const T outside = free_loss > clipped_loss ? T(1) : tie;
  const T share = limited == term.ratio ? T(1) : outside;
  const T passed = ((log_ratio < T(-10)) | (log_ratio > T(10))) ? T(0) : share;
  term.gradient = free_loss * passed;  // d r / d log r = r
  return term;
}

template <class T>
struct ValueTerm {
  T loss;  // the square, without its half
  T gradient;  // of half the square, with respect to the new value
};

// k3 of Schulman's "Approximating KL divergence"
template <class T>
HL_HD T kl_estimate(T ratio, T log_ratio) {
  return ratio - T(1) - log_ratio;
}

// clip < 0: not clipped.
template <class T>
HL_HD ValueTerm<T> value_term(T value, T old_value, T target, T clip) {
  const T change = value - old_value;
  const T limited = clamp(change, -clip, clip);
  const T error = value - target;
  const T clipped_error = clip < T(0) ? error : old_value + limited - target;
  const T square = error * error, clipped_square = clipped_error * clipped_error;
  const T tie = square == clipped_square ? T(0.5) : T(0);
  const T share = square > clipped_square ? T(1) : tie;
  const T inside = ((limited == change) | (clip < T(0))) ? T(1) : T(0);
  ValueTerm<T> term;
  term.loss = square > clipped_square ? square : clipped_square;
  term.gradient = error * share + clipped_error * ((T(1) - share) * inside);
  return term;
}

// The statistics from the sums over `count` samples; returns the loss.
HL_HD double ppo_statistics(const double* sums, double count, double ent_coef, double vf_coef,
                            double* statistics) {
  const double share = count > 1 ? count : 1;
  for (int k = 0; k < 7; ++k) statistics[k] = sums[k] / share;
  statistics[1] *= 0.5;
  statistics[7] = count;
  for (int k = 7; k < static_cast<int>(kPpoSums); ++k) statistics[k + 1] = sums[k];
  return statistics[0] - ent_coef * statistics[2] + vf_coef * statistics[1];
}

}  // namespace hotloop
