#include "../cpu/importance_ratio.h"
#include "backend.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "scalar_arg.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "importance_ratio";

// args: new_log_prob, old_log_prob, valid, invalid, out
void importance_ratio_checked(PyObject* const* args) {
  const View a = read_tensor(kOp, "new_log_prob", args[0]);
  const View b = read_tensor(kOp, "old_log_prob", args[1]);
  const View v = read_optional(kOp, "valid", args[2]);
  const View w = read_tensor(kOp, "out", args[4]);
  expect_ndim(kOp, "new_log_prob", a, 2, "[B, T]");
  expect_float(kOp, "new_log_prob", a);
  expect_shape(kOp, "old_log_prob", b, {a.shape[0], a.shape[1]}, "[B, T]");
  expect_real(kOp, "old_log_prob", b);
  if (!absent(v)) {
    expect_shape(kOp, "valid", v, {a.shape[0], a.shape[1]}, "[B, T]");
    expect_flag(kOp, "valid", v);
  }
  expect_output(kOp, "out", w, {a.shape[0], a.shape[1]}, "[B, T]", a.dtype);
  expect_disjoint(kOp, "out", w, "new_log_prob", a);
  expect_disjoint(kOp, "out", w, "old_log_prob", b);
  if (!absent(v)) expect_disjoint(kOp, "out", w, "valid", v);
  ImportanceRatioParams p;
  p.rows = a.shape[0];
  p.columns = a.shape[1];
  p.new_log_prob = as_matrix(a);
  p.old_log_prob = as_matrix(b);
  if (!absent(v)) p.valid = as_matrix(v);
  p.out = as_matrix(w);
  p.invalid = read_double(kOp, "invalid", args[3]);
  mark_written(args[4]);
  HL_RUN(importance_ratio, kOp, 4 * view_bytes(a), p);
}

}  // namespace

void bind_importance_ratio(PyObject* module) { add_op<5, importance_ratio_checked>(module, kOp); }

}  // namespace hotloop
