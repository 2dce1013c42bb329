#include "../cpu/row_priorities.h"
#include "backend.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "scalar_arg.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "row_priorities";

// args: advantages, alpha, out
void row_priorities_checked(PyObject* const* args) {
  PyObject* const advantages = args[0];
  PyObject* const alpha = args[1];
  PyObject* const out = args[2];
  const View a = read_tensor(kOp, "advantages", advantages);
  const View w = read_tensor(kOp, "out", out);
  expect_ndim(kOp, "advantages", a, 2, "[S, T]");
  expect_real(kOp, "advantages", a);
  expect_shape(kOp, "out", w, {a.shape[0]}, "[S]");
  expect_dtype(kOp, "out", w, a.dtype);
  expect_no_self_overlap(kOp, "out", w);
  expect_disjoint(kOp, "out", w, "advantages", a);

  RowPrioritiesParams p;
  p.rows = a.shape[0];
  p.horizon = a.shape[1];
  p.advantages = as_matrix(a);
  p.priorities = as_column(w);
  p.alpha = read_non_negative(kOp, "alpha", alpha);
  mark_written(out);
  HL_RUN(row_priorities, kOp, view_bytes(a), p);
}

}  // namespace

void bind_row_priorities(PyObject* module) { add_op<3, row_priorities_checked>(module, kOp); }

}  // namespace hotloop
