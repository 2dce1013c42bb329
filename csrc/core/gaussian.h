// The normal distribution of one number: draws, log density and its derivatives, in float64.
#pragma once
#include <cmath>

#include "logarithm.h"
#include "exponential.h"

namespace hotloop {

constexpr double kHalfLogTwoPi = 0.91893853320467274178;

// cos and sin of a whole turn times u, for u in [0, 1), within 2 ulp of 1.
HL_HD void cos_sin_turn(double u, double* cosine, double* sine) {
  const double shifter = 0x1.8p52;  // rounds to an integer, which then stands in the low bits
  const double shifted = u * 4.0 + shifter;
  const double x = (u * 4.0 - (shifted - shifter)) * 1.57079632679489661923;  // |x| <= pi / 4
  uint64_t quarter;
  std::memcpy(&quarter, &shifted, 8);
  const double x2 = x * x;
  double s = -1.0 / 1307674368000.0;
  s = s * x2 + 1.0 / 6227020800.0;
  s = s * x2 - 1.0 / 39916800;
  s = s * x2 + 1.0 / 362880;
  s = s * x2 - 1.0 / 5040;
  s = s * x2 + 1.0 / 120;
  s = s * x2 - 1.0 / 6;
  s = x + x * (x2 * s);
  double c = 1.0 / 20922789888000.0;
  c = c * x2 - 1.0 / 87178291200.0;
  c = c * x2 + 1.0 / 479001600;
  c = c * x2 - 1.0 / 3628800;
  c = c * x2 + 1.0 / 40320;
  c = c * x2 - 1.0 / 720;
  c = c * x2 + 1.0 / 24;
  c = c * x2 - 0.5;
  c = 1.0 + x2 * c;
  // In odd quarters they change places; the signs follow from the quarter.
  uint64_t cosine_bits, sine_bits;
  std::memcpy(&cosine_bits, &c, 8);
  std::memcpy(&sine_bits, &s, 8);
  const uint64_t swapped = (cosine_bits ^ sine_bits) & (uint64_t{0} - (quarter & 1));
  cosine_bits ^= swapped;
  sine_bits ^= swapped;
  cosine_bits ^= ((quarter + 1) & 2) << 62;
  sine_bits ^= (quarter & 2) << 62;
  std::memcpy(cosine, &cosine_bits, 8);
  std::memcpy(sine, &sine_bits, 8);
}

// tanh within 2 ulp of 1.
HL_HD double squashed(double u) {
  const double magnitude = u < 0.0 ? -u : u;
  const double e = exponential(-2.0 * magnitude);
  const double y = (1.0 - e) / (1.0 + e);
  return u < 0.0 ? -y : y;
}

// Where a squashed action lies at most: `limit` is the greatest number below 1 of its dtype.
HL_HD double within(double action, double limit) {
  action = action > limit ? limit : action;  // in this order NaN stays NaN
  return action < -limit ? -limit : action;
}

// Of the logarithms of 1 + a and 1 - a, which lose nothing where a is close to 1: the number before tanh, artanh(a), and
// log(1 - a^2), what tanh adds to minus the log density.
HL_HD double before_tanh(double log_above, double log_below) { return 0.5 * (log_above - log_below); }
HL_HD double tanh_log_slope(double log_above, double log_below) { return log_above + log_below; }

// What a normal number of that radius, sqrt(-2 log u), makes of a uniform one: Box and Muller 1958.
HL_HD double normal_radius(double log_uniform) { return ::sqrt(-2.0 * log_uniform); }

// d log p / d mean = z / std, d log p / d log_std = z^2 - 1, d H / d log_std = 1; tanh adds nothing that depends on
// either.
HL_HD double gradient_by_mean(double grad_log_prob, double z, double inverse) {
  return grad_log_prob * z * inverse;
}
HL_HD double gradient_by_log_std(double grad_log_prob, double grad_entropy, double z) {
  return grad_log_prob * (z * z - 1.0) + grad_entropy;
}

// z = (u - mean) / standard deviation
HL_HD double normal_log_density(double z, double log_std) { return -0.5 * z * z - log_std - kHalfLogTwoPi; }
HL_HD double normal_entropy(double log_std) { return log_std + (0.5 + kHalfLogTwoPi); }

}  // namespace hotloop
