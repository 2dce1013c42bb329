#include "../cpu/gae.h"
#include "backend.h"
#include "bind_ops.h"
#include "estimator_inputs.h"
#include "fastcall.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "gae";

// args: rewards, values, terminated, truncated, last_values, truncation_values, valid, gamma, gae_lambda, time_major, priorities, summary, advantages, returns
void gae_checked(PyObject* const* args) {
  EstimatorInputs in(kOp, args[9] == Py_True);
  GaeParams p;
  p.in = read_departure(in, {args[0], args[1], args[2], args[3], args[4], args[5], args[6]});
  in.discount("gamma", args[7], &p.in.discounts.gamma, &p.in.discounts.gammas);
  in.discount("gae_lambda", args[8], &p.in.discounts.gae_lambda, &p.in.discounts.gae_lambdas);
  p.advantages = in.output("out[0]", args[12], in.dtype());
  p.returns = in.output("out[1]", args[13], in.dtype());
  p.statistics = in.statistics(args[10], args[11], in.dtype());
  expect_truncation_values(kOp, p.in);
  in.mark_outputs();
  HL_RUN_ESTIMATOR(gae, in, 5, p);
}

}  // namespace

void bind_gae(PyObject* module) { add_op<14, gae_checked>(module, kOp); }

}  // namespace hotloop
