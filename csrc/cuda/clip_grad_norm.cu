#include "clip_grad_norm.cuh"

#include "launchers.h"

namespace hotloop {
namespace {

// Calls run(table) for tables that together hold all gradients.
template <class Run>
cudaError_t for_tables(const ClipGradNormParams& p, const Run& run) {
  device::LeafTables<1, device::kGradientsALaunch> tables;
  for (int64_t i = 0; i < p.count; ++i) {
    const cudaError_t error = tables.add(p.runs[i].at, p.runs[i].dtype, 0, run);
    if (error != cudaSuccess) return error;
  }
  return tables.flush(run);
}

}  // namespace

// The factor, then the sums of runs.
int64_t clip_grad_norm_scratch_bytes(const ClipGradNormParams& p) {
  return (1 + p.count) * static_cast<int64_t>(sizeof(double));
}

cudaError_t launch_clip_grad_norm(const ClipGradNormParams& p, const Launch& launch) {
  using namespace device;
  auto* factor = static_cast<double*>(launch.scratch);
  if (factor == nullptr) return cudaErrorInvalidValue;
  double* sums = factor + 1;
  cudaError_t error = for_tables(p, [&](const GradientTable& table) {
    HL_LAUNCH(square_sums_kernel, static_cast<unsigned>(table.pieces), kNormThreads, 0, launch.stream, table,
              sums);
    return cudaGetLastError();
  });
  if (error != cudaSuccess) return error;
  HL_LAUNCH(gradient_norm_kernel, 1, kNormThreads, 0, launch.stream, static_cast<const double*>(sums), p.count,
            p.max_norm, p.norm.data, p.norm.dtype, factor);
  error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  return for_tables(p, [&](const GradientTable& table) {
    const dim3 grid(static_cast<unsigned>(table.pieces), kScaleParts);
    HL_LAUNCH(scale_gradients_kernel, grid, kNormThreads, 0, launch.stream, table,
              static_cast<const double*>(factor));
    return cudaGetLastError();
  });
}

}  // namespace hotloop
