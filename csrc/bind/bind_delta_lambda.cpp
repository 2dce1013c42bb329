#include "../cpu/delta_lambda.h"
#include "backend.h"
#include "bind_ops.h"
#include "estimator_inputs.h"
#include "fastcall.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "delta_lambda";

// args: values, rewards, dones, gamma, gae_lambda, next_values, next_rewards, next_dones, valid, out
void delta_lambda_checked(PyObject* const* args) {
  EstimatorInputs in(kOp, false, "[S, T]");
  DeltaLambdaParams p;
  p.values = in.matrix("values", args[0], Kind::real);
  p.rewards = in.matrix("rewards", args[1], Kind::real);
  p.dones = in.matrix("dones", args[2], Kind::flag);
  in.discount("gamma", args[3], &p.discounts.gamma, &p.discounts.gammas);
  in.discount("gae_lambda", args[4], &p.discounts.gae_lambda, &p.discounts.gae_lambdas);
  if ((args[5] == Py_None) != (args[6] == Py_None) || (args[5] == Py_None) != (args[7] == Py_None)) {
    throw Error(PyExc_ValueError,
                "delta_lambda: next_values, next_rewards and next_dones must be given together or not at all");
  }
  p.next_values = in.optional_column("next_values", args[5], Kind::real);
  p.next_rewards = in.optional_column("next_rewards", args[6], Kind::real);
  p.next_dones = in.optional_column("next_dones", args[7], Kind::flag);
  p.valid = in.optional_matrix("valid", args[8], Kind::flag);
  p.out = in.output("out", args[9], in.dtype());
  p.segments = in.rows();
  p.horizon = in.horizon();
  in.mark_outputs();
  HL_RUN_ESTIMATOR(delta_lambda, in, 4, p);
}

// args: grad, dones, gamma, gae_lambda, next_dones, valid, grad_values, grad_rewards, grad_next_values, grad_next_rewards
void delta_lambda_backward_checked(PyObject* const* args) {
  EstimatorInputs in("delta_lambda_backward", false, "[S, T]");
  DeltaLambdaBackwardParams p;
  p.grad = in.matrix("grad", args[0], Kind::real);
  p.dones = in.matrix("dones", args[1], Kind::flag);
  in.discount("gamma", args[2], &p.discounts.gamma, &p.discounts.gammas);
  in.discount("gae_lambda", args[3], &p.discounts.gae_lambda, &p.discounts.gae_lambdas);
  p.next_dones = in.optional_column("next_dones", args[4], Kind::flag);
  p.valid = in.optional_matrix("valid", args[5], Kind::flag);
  p.grad_values = in.output("grad_values", args[6], in.dtype());
  p.grad_rewards = in.output("grad_rewards", args[7], in.dtype());
  p.grad_next_values = in.output_column("grad_next_values", args[8], in.dtype());
  p.grad_next_rewards = in.output_column("grad_next_rewards", args[9], in.dtype());
  p.segments = in.rows();
  p.horizon = in.horizon();
  in.mark_outputs();
  HL_RUN_ESTIMATOR(delta_lambda_backward, in, 4, p);
}

}  // namespace

void bind_delta_lambda(PyObject* module) {
  add_op<10, delta_lambda_checked>(module, "delta_lambda");
  add_op<10, delta_lambda_backward_checked>(module, "delta_lambda_backward");
}

}  // namespace hotloop
