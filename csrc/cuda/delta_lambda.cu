#include "delta_lambda.cuh"

#include "fill.cuh"
#include "launch_scan.cuh"
#include "launchers.h"

namespace hotloop {
namespace {

template <class T, bool kTree>
cudaError_t run(const DeltaLambdaParams& p, const Launch& launch) {
  using namespace device;
  const bool touch = rows_touch(p.values);
  return p.valid.data == nullptr ? launch_scan<kTree>(DeltaLambda<T, false>(p), touch, launch)
                                 : launch_scan<false>(DeltaLambda<T, true>(p), touch, launch);
}

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
cudaError_t launch_delta_lambda(const DeltaLambdaParams& p, const Launch& launch) {
  return p.values.dtype == DType::f64 ? run<double, false>(p, launch) : run<float, true>(p, launch);
}

cudaError_t launch_delta_lambda_backward(const DeltaLambdaBackwardParams& p, const Launch& launch) {
  using namespace device;
  if (p.horizon == 0) {
    const cudaError_t error = launch_zeros(p.grad_next_values, p.segments, launch);
    return error != cudaSuccess ? error : launch_zeros(p.grad_next_rewards, p.segments, launch);
  }
  const bool touch = rows_touch(p.grad_values);
  return p.grad.dtype == DType::f64 ? launch_scan<false>(DeltaLambdaBackward<double>(p), touch, launch)
                                    : launch_scan<false>(DeltaLambdaBackward<float>(p), touch, launch);
}

}  // namespace hotloop
