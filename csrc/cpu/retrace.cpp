#include "retrace.h"

#include "departure_estimator.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

template <class T>
struct RetraceFormula {
  static constexpr int kRatioShift = 1;
  static constexpr bool kLean = false;
  T c_clip;

  template <class Run>
  Affine<T> step(const Run& run, int64_t i, const Discount<T>& k, bool continues) const {
    return retrace_step(k, c_clip, run.reward[i], run.baseline[i], run.bootstrap(i), run.ratio[i], continues);
  }
  template <class Run>
  T idle(const Run&, int64_t) const {
    return T(0);
  }
};

template <class T>
void run(const RetraceParams& p) {
  run_departure<T>(p.in, RetraceFormula<T>{static_cast<T>(p.c_clip)}, Matrix{}, p.targets, 6);
}

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
void retrace(const RetraceParams& p) {
  if (p.in.dtype == DType::f64) {
    run<double>(p);
  } else {
    run<float>(p);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
