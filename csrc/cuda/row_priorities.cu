#include "row_priorities.cuh"

#include <cmath>

#include "launchers.h"

namespace hotloop {
namespace {

double overflow_threshold(DType dtype) {
  if (dtype == DType::f16) return 65520.0;
  if (dtype == DType::bf16) return 0x1.ffp127;
  return HUGE_VAL;
}

template <class T>
cudaError_t run(const RowPrioritiesParams& p, const Launch& launch) {
  using namespace device;
  if (p.rows == 0) return cudaSuccess;
  HL_LAUNCH((row_priorities_kernel<T>), blocks_for(p.rows, kPriorityThreads / kSumLanes), kPriorityThreads, 0,
            launch.stream, Array(p.advantages), Array(p.priorities), p.rows, p.horizon, static_cast<T>(p.alpha),
            static_cast<T>(overflow_threshold(p.priorities.dtype)));
  return cudaGetLastError();
}

}  // namespace

// Half-precision values are summed in float and rounded once, when they are stored.
cudaError_t launch_row_priorities(const RowPrioritiesParams& p, const Launch& launch) {
  return p.advantages.dtype == DType::f64 ? run<double>(p, launch) : run<float>(p, launch);
}

}  // namespace hotloop
