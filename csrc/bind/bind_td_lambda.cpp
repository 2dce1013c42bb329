#include "../cpu/td_lambda.h"
#include "backend.h"
#include "bind_ops.h"
#include "estimator_inputs.h"
#include "fastcall.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "td_lambda";

// args: rewards, values, terminated, truncated, last_values, truncation_values, valid, gamma, gae_lambda, time_major, out
void td_lambda_checked(PyObject* const* args) {
  EstimatorInputs in(kOp, args[9] == Py_True);
  TdLambdaParams p;
  p.in = read_departure(in, {args[0], args[1], args[2], args[3], args[4], args[5], args[6]});
  in.discount("gamma", args[7], &p.in.discounts.gamma, &p.in.discounts.gammas);
  in.discount("gae_lambda", args[8], &p.in.discounts.gae_lambda, &p.in.discounts.gae_lambdas);
  p.returns = in.output("out", args[10], in.dtype());
  expect_truncation_values(kOp, p.in);
  in.mark_outputs();
  HL_RUN_ESTIMATOR(td_lambda, in, 4, p);
}

// args: grad, terminated, truncated, valid, gamma, gae_lambda, time_major, grad_rewards, grad_values, grad_last_values, grad_truncation_values
void td_lambda_backward_checked(PyObject* const* args) {
  EstimatorInputs in("td_lambda_backward", args[6] == Py_True);
  TdLambdaBackwardParams p;
  p.grad = in.matrix("grad", args[0], Kind::real);
  p.in.terminated = in.matrix("terminated", args[1], Kind::flag);
  p.in.truncated = in.optional_matrix("truncated", args[2], Kind::flag);
  p.in.valid = in.optional_matrix("valid", args[3], Kind::flag);
  in.discount("gamma", args[4], &p.in.discounts.gamma, &p.in.discounts.gammas);
  in.discount("gae_lambda", args[5], &p.in.discounts.gae_lambda, &p.in.discounts.gae_lambdas);
  p.grad_rewards = in.output("grad_rewards", args[7], in.dtype());
  p.grad_values = in.output("grad_values", args[8], in.dtype());
  p.grad_last_values = in.output_column("grad_last_values", args[9], in.dtype());
  p.grad_truncation_values = in.output("grad_truncation_values", args[10], in.dtype());
  p.in.rows = in.rows();
  p.in.horizon = in.horizon();
  in.mark_outputs();
  HL_RUN_ESTIMATOR(td_lambda_backward, in, 5, p);
}

}  // namespace

void bind_td_lambda(PyObject* module) {
  add_op<11, td_lambda_checked>(module, "td_lambda");
  add_op<11, td_lambda_backward_checked>(module, "td_lambda_backward");
}

}  // namespace hotloop
