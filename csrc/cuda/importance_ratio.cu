#include "importance_ratio.cuh"

#include "launchers.h"

namespace hotloop {
namespace {

template <class T>
cudaError_t run(const ImportanceRatioParams& p, const Launch& launch) {
  using namespace device;
  if (p.rows * p.columns == 0) return cudaSuccess;
  HL_LAUNCH((importance_ratio_kernel<T>), blocks_for(p.rows * p.columns, kRatioThreads), kRatioThreads, 0,
            launch.stream, Array(p.new_log_prob), Array(p.old_log_prob), Array(p.valid), Array(p.out), p.rows,
            p.columns, static_cast<T>(p.invalid));
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_importance_ratio(const ImportanceRatioParams& p, const Launch& launch) {
  return p.out.dtype == DType::f64 ? run<double>(p, launch) : run<float>(p, launch);
}

}  // namespace hotloop
