#include "td_lambda.cuh"

#include "fill.cuh"
#include "launch_scan.cuh"
#include "launchers.h"

namespace hotloop {
namespace {

template <class T, bool kTree>
cudaError_t run(const TdLambdaParams& p, const Launch& launch) {
  const device::DepartureEstimator<T, device::TdLambdaFormula<T>> estimator(p.in, {}, p.returns, Matrix{});
  return device::launch_scan<kTree>(estimator, device::rows_touch(p.in.rewards), launch);
}

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
cudaError_t launch_td_lambda(const TdLambdaParams& p, const Launch& launch) {
  return p.in.dtype == DType::f64 ? run<double, false>(p, launch) : run<float, true>(p, launch);
}

cudaError_t launch_td_lambda_backward(const TdLambdaBackwardParams& p, const Launch& launch) {
  using namespace device;
  if (p.in.horizon == 0) return launch_zeros(p.grad_last_values, p.in.rows, launch);
  const bool touch = rows_touch(p.grad_values);
  return p.grad.dtype == DType::f64 ? launch_scan<false>(TdLambdaBackward<double>(p), touch, launch)
                                    : launch_scan<false>(TdLambdaBackward<float>(p), touch, launch);
}

}  // namespace hotloop
