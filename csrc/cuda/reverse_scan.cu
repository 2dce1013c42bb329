#include "reverse_scan.cuh"

#include "fill.cuh"
#include "launch_scan.cuh"
#include "launchers.h"

namespace hotloop {

// Half-precision values are computed in float and rounded once, when they are stored.
cudaError_t launch_reverse_scan(const ReverseScanParams& p, const Launch& launch) {
  using namespace device;
  const bool touch = rows_touch(p.b);
  return p.b.dtype == DType::f64 ? launch_scan<false>(ReverseScan<double>(p), touch, launch)
                                 : launch_scan<true>(ReverseScan<float>(p), touch, launch);
}

cudaError_t launch_reverse_scan_backward(const ReverseScanBackwardParams& p, const Launch& launch) {
  using namespace device;
  if (p.horizon == 0) return launch_zeros(p.grad_last, p.rows, launch);
  const bool touch = rows_touch(p.a);
  return p.grad.dtype == DType::f64 ? launch_scan<false>(ReverseScanBackward<double>(p), touch, launch)
                                    : launch_scan<false>(ReverseScanBackward<float>(p), touch, launch);
}

}  // namespace hotloop
