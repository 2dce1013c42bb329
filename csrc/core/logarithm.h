// The natural logarithm without a table or a library call, so that every instruction set and device gives the same bits.
#pragma once
#include "dtype.h"

namespace hotloop {

template <class To, class From>
HL_HD To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "as many bits");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// Of 2^shift * x, x a normal positive number, to 1 ulp; the polynomial is that of fdlibm's e_log.c. F is double and U
// uint64_t, or vectors of as many of them.
template <class U, class F>
HL_HD F natural_logarithm(F x, double shift) {
  const U bits = bits_as<U>(x);
  // x = 2^k z with z in [sqrt(1/2), sqrt(2)); 1024 is added to k so that a shift without sign does
  const U above = bits - uint64_t{0x3fe6a09e00000000} + uint64_t{0x4000000000000000};
  const U biased = above >> 52;
  const F z = bits_as<F>(bits - (above & uint64_t{0xfff0000000000000}) + uint64_t{0x4000000000000000});
  const F k = bits_as<F>(biased | uint64_t{0x4330000000000000}) - (0x1p52 + 1024 - shift);
  const F f = z - 1.0;
  const F s = f / (f + 2.0);
  const F s2 = s * s;
  const F s4 = s2 * s2;
  const F t1 = s4 * (3.999999999940941908e-01 + s4 * (2.222219843214978396e-01 + s4 * 1.531383769920937332e-01));
  const F t2 =
      s2 * (6.666666666666735130e-01 +
            s4 * (2.857142874366239149e-01 + s4 * (1.818357216161805012e-01 + s4 * 1.479819860510658591e-01)));
  const F half = 0.5 * f * f;
  return k * 6.93147180369123816490e-01 - ((half - (s * (half + (t1 + t2)) + k * 1.90821492927058770002e-10)) - f);
}

// Of a positive normal number; NaN for NaN.
HL_HD double logarithm(double x) { return natural_logarithm<uint64_t>(x, 0.0) + (x - x); }

}  // namespace hotloop
