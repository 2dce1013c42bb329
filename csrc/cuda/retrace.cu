#include "retrace.cuh"

#include "launch_scan.cuh"
#include "launchers.h"

namespace hotloop {
namespace {

template <class T, bool kTree>
cudaError_t run(const RetraceParams& p, const Launch& launch) {
  const device::RetraceFormula<T> formula{static_cast<T>(p.c_clip)};
  const device::DepartureEstimator<T, device::RetraceFormula<T>> estimator(p.in, formula, Matrix{}, p.targets);
  return device::launch_scan<kTree>(estimator, device::rows_touch(p.in.rewards), launch);
}

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
cudaError_t launch_retrace(const RetraceParams& p, const Launch& launch) {
  return p.in.dtype == DType::f64 ? run<double, false>(p, launch) : run<float, true>(p, launch);
}

}  // namespace hotloop
