// Generalised advantage estimation as a formula over departure-indexed steps.
#pragma once
#include "departure.cuh"

namespace hotloop {
namespace device {

template <class T>
struct GaeFormula {
  static constexpr int kRatioShift = 0;

  HL_DEVICE Affine<T> step(const DepartureStep<T>& s, const Discount<T>& k) const {
    return gae_step(k, s.reward, s.baseline, s.bootstrap, s.continues);
  }
  HL_DEVICE T idle(const DepartureStep<T>&) const { return T(0); }
};

}  // namespace device
}  // namespace hotloop
