// The exponential without a table, a branch or a library call, so that compilers vectorise it and every instruction
// set gives the same bits: 2^n e^r with n an integer and |r| <= ln(2) / 2.
#pragma once
#include <cmath>

#include "dtype.h"

namespace hotloop {

// e^x to 2 ulp for x <= 88; infinity above, 0 where the result would be subnormal (x < -87.33), NaN for NaN.
HL_HD float exponential(float x) {
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
  float y = e * scale;
  y = x < -87.33f ? 0.0f : y;
  return x > 88.0f ? HUGE_VALF : y;
}

// e^x to 2 ulp for x <= 709; infinity above, 0 where the result would be subnormal (x < -708.39), NaN for NaN.
HL_HD double exponential(double x) {
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
  double y = e * scale;
  y = x < -708.39 ? 0.0 : y;
  return x > 709.0 ? HUGE_VAL : y;
}

}  // namespace hotloop
