#include "importance_ratio.cuh"

#include "launchers.h"

namespace hotloop {

cudaError_t launch_importance_ratio(const ImportanceRatioParams& p, const Launch& launch) {
  using namespace device;
  if (p.rows * p.columns == 0) return cudaSuccess;
  const unsigned blocks = blocks_for(p.rows * p.columns, kRatioThreads);
  if (p.out.dtype == DType::f64) {
    HL_LAUNCH((importance_ratio_kernel<double>), blocks, kRatioThreads, 0, launch.stream, p);
  } else {
    HL_LAUNCH((importance_ratio_kernel<float>), blocks, kRatioThreads, 0, launch.stream, p);
  }
  return cudaGetLastError();
}

}  // namespace hotloop
