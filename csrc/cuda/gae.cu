#include "gae.cuh"

#include "launch_scan.cuh"
#include "launchers.h"

namespace hotloop {

namespace {

template <class T>
using GaeEstimator = device::DepartureEstimator<T, device::GaeFormula<T>>;

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
cudaError_t launch_gae(const GaeParams& p, const Launch& launch) {
  using namespace device;
  const bool is_double = p.in.dtype == DType::f64, touch = rows_touch(p.in.rewards);
  const cudaError_t error =
      is_double ? launch_scan<false>(GaeEstimator<double>(p.in, {}, p.advantages, p.returns), touch, launch)
                : launch_scan<true>(GaeEstimator<float>(p.in, {}, p.advantages, p.returns), touch, launch);
  if (error != cudaSuccess) return error;
  return launch_statistics(p.statistics, p.advantages, p.in.valid, p.in.rows, p.in.horizon, is_double, launch);
}

}  // namespace hotloop
