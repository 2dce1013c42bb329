#include "../cpu/vtrace.h"
#include "backend.h"
#include "bind_ops.h"
#include "estimator_inputs.h"
#include "fastcall.h"
#include "scalar_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "vtrace";

// args: rewards, values, terminated, truncated, importance, last_values, truncation_values, valid, gamma, gae_lambda, rho_clip, c_clip, pg_rho_clip, time_major, targets, pg_advantages
void vtrace_checked(PyObject* const* args) {
  EstimatorInputs in(kOp, args[13] == Py_True);
  VtraceParams p;
  p.in = read_departure(in, {args[0], args[1], args[2], args[3], args[5], args[6], args[7]});
  p.in.importance = in.matrix("importance", args[4], Kind::real);
  in.discount("gamma", args[8], &p.in.discounts.gamma, &p.in.discounts.gammas);
  in.discount("gae_lambda", args[9], &p.in.discounts.gae_lambda, &p.in.discounts.gae_lambdas);
  p.rho_clip = read_non_negative(kOp, "rho_clip", args[10]);
  p.c_clip = read_non_negative(kOp, "c_clip", args[11]);
  p.pg_rho_clip = read_non_negative(kOp, "pg_rho_clip", args[12]);
  p.targets = in.output("out[0]", args[14], in.dtype());
  p.pg_advantages = in.output("out[1]", args[15], in.dtype());
  expect_truncation_values(kOp, p.in);
  in.mark_outputs();
  HL_RUN_ESTIMATOR(vtrace, in, 6, p);
}

}  // namespace

void bind_vtrace(PyObject* module) { add_op<16, vtrace_checked>(module, "vtrace"); }

}  // namespace hotloop
