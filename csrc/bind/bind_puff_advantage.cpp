#include "../cpu/puff_advantage.h"
#include "backend.h"
#include "bind_ops.h"
#include "estimator_inputs.h"
#include "fastcall.h"
#include "scalar_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "puff_advantage";

// args: values, rewards, dones, importance, gamma, gae_lambda, rho_clip, c_clip, next_values, next_rewards, next_dones, returns, priorities, summary, out
void puff_advantage_checked(PyObject* const* args) {
  EstimatorInputs in(kOp, false, "[S, T]");
  PuffAdvantageParams p;
  p.values = in.matrix("values", args[0], Kind::real);
  p.rewards = in.matrix("rewards", args[1], Kind::real);
  p.dones = in.matrix("dones", args[2], Kind::flag);
  p.importance = in.matrix("importance", args[3], Kind::real);
  if ((args[8] == Py_None) != (args[9] == Py_None) || (args[8] == Py_None) != (args[10] == Py_None)) {
    throw Error(PyExc_ValueError,
                "puff_advantage: next_values, next_rewards and next_dones must be given together or not at all");
  }
  p.next_values = in.optional_column("next_values", args[8], Kind::real);
  p.next_rewards = in.optional_column("next_rewards", args[9], Kind::real);
  p.next_dones = in.optional_column("next_dones", args[10], Kind::flag);
  in.discount("gamma", args[4], &p.discounts.gamma, &p.discounts.gammas);
  in.discount("gae_lambda", args[5], &p.discounts.gae_lambda, &p.discounts.gae_lambdas);
  p.rho_clip = read_non_negative(kOp, "rho_clip", args[6]);
  p.c_clip = read_non_negative(kOp, "c_clip", args[7]);
  p.advantages = in.output("out", args[14], in.dtype());
  if (args[11] != Py_None) p.returns = in.output("returns", args[11], in.dtype());
  p.statistics = in.statistics(args[12], args[13], in.dtype());
  p.segments = in.rows();
  p.horizon = in.horizon();
  in.mark_outputs();
  HL_RUN_ESTIMATOR(puff_advantage, in, 5, p);
}

}  // namespace

void bind_puff_advantage(PyObject* module) { add_op<15, puff_advantage_checked>(module, kOp); }

}  // namespace hotloop
