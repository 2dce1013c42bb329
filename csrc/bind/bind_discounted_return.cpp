#include "../cpu/td_lambda.h"
#include "backend.h"
#include "bind_ops.h"
#include "estimator_inputs.h"
#include "fastcall.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "discounted_return";

// args: rewards, terminated, truncated, last_values, truncation_values, valid, gamma, time_major, out
void discounted_return_checked(PyObject* const* args) {
  EstimatorInputs in(kOp, args[7] == Py_True);
  TdLambdaParams p;
  p.in = read_departure(in, {args[0], nullptr, args[1], args[2], args[3], args[4], args[5]});
  in.discount("gamma", args[6], &p.in.discounts.gamma, &p.in.discounts.gammas);
  p.in.discounts.gae_lambda = 1;
  p.returns = in.output("out", args[8], in.dtype());
  expect_truncation_values(kOp, p.in);
  in.mark_outputs();
  HL_RUN_ESTIMATOR(td_lambda, in, 3, p);
}

}  // namespace

void bind_discounted_return(PyObject* module) {
  add_op<9, discounted_return_checked>(module, "discounted_return");
}

}  // namespace hotloop
