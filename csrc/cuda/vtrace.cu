#include "vtrace.cuh"

#include "launch_scan.cuh"
#include "launchers.h"

namespace hotloop {

// Half-precision values are computed in float and rounded once, when they are stored.
cudaError_t launch_vtrace(const VtraceParams& p, const Launch& launch) {
  using namespace device;
  const bool touch = rows_touch(p.in.rewards);
  return p.in.dtype == DType::f64 ? launch_scan<false>(VtraceEstimator<double>(p), touch, launch)
                                  : launch_scan<true>(VtraceEstimator<float>(p), touch, launch);
}

}  // namespace hotloop
