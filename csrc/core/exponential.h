// The exponential without a table, a branch or a library call, so that compilers vectorise it and every instruction
// set gives the same bits: 2^n e^r with n an integer and |r| <= ln(2) / 2.
#pragma once
#include "dtype.h"

namespace hotloop {

// e^x within 2 ulp; 0 below -87.68, infinity above 88.37 (half a binade before the range of normal numbers ends, so
// that the ends need no case of their own: the scale itself becomes 0 or infinity), NaN for NaN.
HL_HD float exponential(float x) {
  x = x < -88.0f ? -88.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const float shifter = 0x1.8p23f;  // rounds to an integer, which then stands in the low bits
  const float shifted = x * 1.44269504f + shifter;
  const float n = shifted - shifter;
  const float r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;  // ln 2 in two parts: n times the first is exact
  float q = 0x1.6d1124p-10f;
  q = q * r + 0x1.120b88p-7f;
  q = q * r + 0x1.55551ap-5f;
  q = q * r + 0x1.5554dcp-3f;
  q = q * r + 0.5f;
  const float e = 1.0f + (r + (r * r) * q);
  uint32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = (bits + 127u) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return e * scale;
}

// The same for float64: 0 below -708.7, infinity above 709.4.
HL_HD double exponential(double x) {
  x = x < -709.0 ? -709.0 : x;
  x = x > 710.0 ? 710.0 : x;
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
  const double e = 1.0 + (r + (r * r) * q);
  uint64_t bits;
  std::memcpy(&bits, &shifted, 8);
  bits = (bits + 1023u) << 52;
  double scale;
  std::memcpy(&scale, &bits, 8);
  return e * scale;
}

}  // namespace hotloop
