#include <vector>

#include "../cpu/return_moments.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "return_moments";

// args: values, advantages, valid, out
void return_moments_checked(PyObject* const* args) {
  const View values = read_tensor(kOp, "values", args[0]);
  const View advantages = read_tensor(kOp, "advantages", args[1]);
  const View valid = read_optional(kOp, "valid", args[2]);
  const View out = read_tensor(kOp, "out", args[3]);
  expect_ndim(kOp, "values", values, 2, "[S, T]");
  expect_real(kOp, "values", values);
  expect_shape(kOp, "advantages", advantages, {values.shape[0], values.shape[1]}, "[S, T]");
  expect_real(kOp, "advantages", advantages);
  if (!absent(valid)) {
    expect_shape(kOp, "valid", valid, {values.shape[0], values.shape[1]}, "[S, T]");
    expect_flag(kOp, "valid", valid);
  }
  expect_shape(kOp, "out", out, {kMoments}, "[5]");
  expect_dtype(kOp, "out", out, DType::f64);
  if (out.stride[0] != 1) value_error(kOp, "out", "contiguous", "a strided view");
  expect_disjoint(kOp, "out", out, "values", values);
  expect_disjoint(kOp, "out", out, "advantages", advantages);
  expect_disjoint(kOp, "out", out, "valid", valid);

  ReturnMomentsParams p;
  p.rows = values.shape[0];
  p.columns = values.shape[1];
  p.values = as_matrix(values);
  p.advantages = as_matrix(advantages);
  if (!absent(valid)) p.valid = as_matrix(valid);
  p.moments = reinterpret_cast<double*>(out.data);
  const int64_t blocks = (p.rows * p.columns + kMomentsBlock - 1) / kMomentsBlock;
  std::vector<double> partial(static_cast<size_t>(kMomentsSums * blocks));
  p.partial = partial.data();
  mark_written(args[3]);
  run_kernel(4 * view_bytes(values), [&] { return_moments(p); });
}

}  // namespace

void bind_return_moments(PyObject* module) { add_op<4, return_moments_checked>(module, kOp); }

}  // namespace hotloop
