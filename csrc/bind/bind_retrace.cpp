#include "../cpu/retrace.h"
#include "backend.h"
#include "bind_ops.h"
#include "estimator_inputs.h"
#include "fastcall.h"
#include "scalar_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "retrace";

// args: rewards, q_values, values, terminated, truncated, importance, last_values, truncation_values, valid, gamma, gae_lambda, c_clip, time_major, out
void retrace_checked(PyObject* const* args) {
  EstimatorInputs in(kOp, args[12] == Py_True);
  RetraceParams p;
  const Matrix q_values = in.matrix("q_values", args[1], Kind::real);
  p.in = read_departure(in, {args[0], args[2], args[3], args[4], args[6], args[7], args[8]});
  p.in.baseline = q_values;
  p.in.importance = in.matrix("importance", args[5], Kind::real);
  in.discount("gamma", args[9], &p.in.discounts.gamma, &p.in.discounts.gammas);
  in.discount("gae_lambda", args[10], &p.in.discounts.gae_lambda, &p.in.discounts.gae_lambdas);
  p.c_clip = read_non_negative(kOp, "c_clip", args[11]);
  p.targets = in.output("out", args[13], in.dtype());
  expect_truncation_values(kOp, p.in);
  in.mark_outputs();
  HL_RUN_ESTIMATOR(retrace, in, 6, p);
}

}  // namespace

void bind_retrace(PyObject* module) { add_op<14, retrace_checked>(module, "retrace"); }

}  // namespace hotloop
