#include "gae.h"

#include "departure_estimator.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

template <class T>
struct GaeFormula {
  static constexpr int kRatioShift = 0;

  template <class Run>
  Affine<T> step(const Run& run, int64_t i, const Discount<T>& k, bool continues) const {
    return gae_step(k, run.reward[i], run.baseline[i], run.bootstrap(i), continues);
  }
  template <class Run>
  T idle(const Run&, int64_t) const {
    return T(0);
  }
};

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
void gae(const GaeParams& p) {
  if (p.in.dtype == DType::f64) {
    run_departure<double>(p.in, GaeFormula<double>{}, p.advantages, p.returns, 5);
  } else {
    run_departure<float>(p.in, GaeFormula<float>{}, p.advantages, p.returns, 5);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
