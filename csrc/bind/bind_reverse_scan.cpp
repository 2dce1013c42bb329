#include "../cpu/reverse_scan.h"
#include "backend.h"
#include "bind_ops.h"
#include "estimator_inputs.h"
#include "fastcall.h"

namespace hotloop {
namespace {

// args: a, b, last, time_major, out
void reverse_scan_checked(PyObject* const* args) {
  EstimatorInputs in("reverse_scan", args[3] == Py_True);
  ReverseScanParams p;
  p.b = in.matrix("b", args[1], Kind::real);
  p.a = in.matrix("a", args[0], Kind::real);
  p.last = in.optional_column("last", args[2], Kind::real);
  p.out = in.output("out", args[4], in.dtype());
  p.rows = in.rows();
  p.horizon = in.horizon();
  in.mark_outputs();
  HL_RUN_ESTIMATOR(reverse_scan, in, 3, p);
}

// args: grad, a, y, last, time_major, grad_a, grad_b, grad_last
void reverse_scan_backward_checked(PyObject* const* args) {
  EstimatorInputs in("reverse_scan_backward", args[4] == Py_True);
  ReverseScanBackwardParams p;
  p.grad = in.matrix("grad", args[0], Kind::real);
  p.a = in.matrix("a", args[1], Kind::real);
  p.y = in.matrix("y", args[2], Kind::real);
  p.last = in.optional_column("last", args[3], Kind::real);
  p.grad_a = in.output("grad_a", args[5], p.a.dtype);
  p.grad_b = in.output("grad_b", args[6], in.dtype());
  p.grad_last = in.output_column("grad_last", args[7], p.last.data != nullptr ? p.last.dtype : in.dtype());
  p.rows = in.rows();
  p.horizon = in.horizon();
  in.mark_outputs();
  HL_RUN_ESTIMATOR(reverse_scan_backward, in, 5, p);
}

}  // namespace

void bind_reverse_scan(PyObject* module) {
  add_op<5, reverse_scan_checked>(module, "reverse_scan");
  add_op<8, reverse_scan_backward_checked>(module, "reverse_scan_backward");
}

}  // namespace hotloop
