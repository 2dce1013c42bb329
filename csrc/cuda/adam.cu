#include "adam.cuh"

#include "launchers.h"

namespace hotloop {
namespace {

cudaError_t launch_rates(const AdamDeviceParams& p, device::RatesOf* rates, const Launch& launch) {
  using namespace device;
  StepTable table{};
  for (int64_t i = 0; i < p.tensors; ++i) {
    table.tensors[table.count++] = StepOf{p.steps[i].data, p.steps[i].dtype, p.dtypes[i]};
    if (table.count < kStepsALaunch && i + 1 < p.tensors) continue;
    HL_LAUNCH(adam_rates_kernel, 1, kStepsALaunch, 0, launch.stream, table, p.settings, rates);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
    table.first += table.count;
    table.count = 0;
  }
  return cudaSuccess;
}

template <class T>
cudaError_t launch_update(const AdamDeviceParams& p, const device::RatesOf* rates, const Launch& launch) {
  using namespace device;
  constexpr DType kDType = sizeof(T) == sizeof(double) ? DType::f64 : DType::f32;
  LeafTables<kAdamViews, kAdamTensorsALaunch> tables;
  const auto run = [&](const AdamTable& table) {
    const dim3 grid(static_cast<unsigned>(table.pieces), kAdamParts);
    HL_LAUNCH((adam_kernel<T>), grid, kAdamThreads, 0, launch.stream, table, rates);
    return cudaGetLastError();
  };
  for (int64_t i = 0; i < p.count; ++i) {
    const int64_t tensor = p.runs[i].tensor;
    if (p.dtypes[tensor] != kDType) continue;
    const cudaError_t error = tables.add(p.runs[i].at, kDType, tensor, run);
    if (error != cudaSuccess) return error;
  }
  return tables.flush(run);
}

}  // namespace

int64_t adam_scratch_bytes(const AdamDeviceParams& p) {
  return p.tensors * static_cast<int64_t>(sizeof(device::RatesOf));
}

cudaError_t launch_adam(const AdamDeviceParams& p, const Launch& launch) {
  if (p.tensors == 0) return cudaSuccess;
  auto* rates = static_cast<device::RatesOf*>(launch.scratch);
  if (rates == nullptr) return cudaErrorInvalidValue;
  cudaError_t error = launch_rates(p, rates, launch);
  if (error == cudaSuccess) error = launch_update<float>(p, rates, launch);
  return error == cudaSuccess ? launch_update<double>(p, rates, launch) : error;
}

}  // namespace hotloop
