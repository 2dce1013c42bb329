// The exponential without a table, a branch or a library call, so that compilers vectorise it and every instruction
// set gives the same bits: 2^n e^r with n an integer and |r| <= ln(2) / 2.
#pragma once
#include "dtype.h"

namespace hotloop {

// e^x = (1 + rest) * scale with scale = 2^n.
template <class T>
struct Exponential {
  T rest, scale;
};

HL_HD Exponential<float> exponential_parts(float x) {
  const float shifter = 0x1.8p23f;  // rounds to an integer, which then stands in the low bits
  const float shifted = x * 1.44269504f + shifter;
  const float n = shifted - shifter;
  const float r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;  // ln 2 in two parts: n times the first is exact
  float q = 0x1.6d1124p-10f;
  q = q * r + 0x1.120b88p-7f;
  q = q * r + 0x1.55551ap-5f;
  q = q * r + 0x1.5554dcp-3f;
  q = q * r + 0.5f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = (bits + 127u) << 23;
  Exponential<float> parts{r + (r * r) * q, 0};
  std::memcpy(&parts.scale, &bits, 4);
  return parts;
}

HL_HD Exponential<double> exponential_parts(double x) {
  const double shifter = 0x1.8p52;
  const double shifted = x * 1.44269504088896338700e+00 + shifter;
  const double n = shifted - shifter;
  const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  double q = 1.0 / 6227020800.0;
  q = q * r + 1.0 / 479001600;
  q = q * r + 1.0 / 39916800;
  q = q * r + 1.0 / 3628800;
  q = q * r + 1.0 / 362880;
  q = q * r + 1.0 / 40320;
  q = q * r + 1.0 / 5040;
  q = q * r + 1.0 / 720;
  q = q * r + 1.0 / 120;
  q = q * r + 1.0 / 24;
  q = q * r + 1.0 / 6;
  q = q * r + 0.5;
  uint64_t bits;
  std::memcpy(&bits, &shifted, 8);
  bits = (bits + 1023u) << 52;
  Exponential<double> parts{r + (r * r) * q, 0};
  std::memcpy(&parts.scale, &bits, 8);
  return parts;
}

// e^x within 2 ulp; 0 below -87.68, infinity above 88.37 (half a binade before the range of normal numbers ends, so
// that the ends need no case of their own: the scale itself becomes 0 or infinity), NaN for NaN.
HL_HD float exponential(float x) {
  x = x < -88.0f ? -88.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const Exponential<float> parts = exponential_parts(x);
  return (1.0f + parts.rest) * parts.scale;
}

// The same for float64: 0 below -708.7, infinity above 709.4.
HL_HD double exponential(double x) {
  x = x < -709.0 ? -709.0 : x;
  x = x > 710.0 ? 710.0 : x;
  const Exponential<double> parts = exponential_parts(x);
  return (1.0 + parts.rest) * parts.scale;
}

// The number with the sign bit of `sign`, which has none of its own.
HL_HD float with_sign(float magnitude, float sign) {
  uint32_t bits, from;
  std::memcpy(&bits, &magnitude, 4);
  std::memcpy(&from, &sign, 4);
  bits |= from & 0x80000000u;
  std::memcpy(&magnitude, &bits, 4);
  return magnitude;
}
HL_HD double with_sign(double magnitude, double sign) {
  uint64_t bits, from;
  std::memcpy(&bits, &magnitude, 8);
  std::memcpy(&from, &sign, 8);
  bits |= from & 0x8000000000000000u;
  std::memcpy(&magnitude, &bits, 8);
  return magnitude;
}

// tanh x = (e^2x - 1) / (e^2x + 1) of the magnitude, whose e^2x - 1 = rest * scale + (scale - 1) loses nothing near 0.
// Within 3 ulp; beyond the bounds it rounds to 1. NaN for NaN, and the sign of a zero is kept.
template <class T>
HL_HD T hyperbolic_tangent(T x) {
  const T bound = sizeof(T) == 4 ? T(10) : T(20);
  T magnitude = x < T(0) ? -x : x;
  magnitude = magnitude > bound ? bound : magnitude;
  const Exponential<T> parts = exponential_parts(magnitude + magnitude);
  const T grown = parts.rest * parts.scale + (parts.scale - T(1));
  return with_sign(grown / (grown + T(2)), x);
}

}  // namespace hotloop
