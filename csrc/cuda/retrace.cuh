// Retrace(lambda) as a formula over departure-indexed steps.
#pragma once
#include "departure.cuh"

namespace hotloop {
namespace device {

template <class T>
struct RetraceFormula {
  static constexpr int kRatioShift = 1;
  T c_clip;

  HL_DEVICE Affine<T> step(const DepartureStep<T>& s, const Discount<T>& k) const {
    return retrace_step(k, c_clip, s.reward, s.baseline, s.bootstrap, s.ratio, s.continues);
  }
  HL_DEVICE T idle(const DepartureStep<T>&) const { return T(0); }
};

}  // namespace device
}  // namespace hotloop
