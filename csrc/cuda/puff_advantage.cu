#include "puff_advantage.cuh"

#include "launch_scan.cuh"
#include "launchers.h"

namespace hotloop {

// Half-precision values are computed in float and rounded once, when they are stored.
cudaError_t launch_puff_advantage(const PuffAdvantageParams& p, const Launch& launch) {
  using namespace device;
  const bool is_double = p.values.dtype == DType::f64, touch = rows_touch(p.values);
  const cudaError_t error = is_double ? launch_scan<false>(PuffEstimator<double>(p), touch, launch)
                                      : launch_scan<true>(PuffEstimator<float>(p), touch, launch);
  if (error != cudaSuccess) return error;
  return launch_statistics(p.statistics, p.advantages, Matrix{}, p.segments, p.horizon, is_double, launch);
}

}  // namespace hotloop
