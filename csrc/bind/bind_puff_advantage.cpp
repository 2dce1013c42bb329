#include "../cpu/puff_advantage.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "scalar_arg.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "puff_advantage";

// args: values, rewards, dones, importance, gamma, gae_lambda, rho_clip, c_clip, next_values, next_rewards, next_dones, out
void puff_advantage_checked(PyObject* const* args) {
  PyObject* const values = args[0];
  PyObject* const rewards = args[1];
  PyObject* const dones = args[2];
  PyObject* const importance = args[3];
  PyObject* const gamma = args[4];
  PyObject* const gae_lambda = args[5];
  PyObject* const rho_clip = args[6];
  PyObject* const c_clip = args[7];
  PyObject* const next_values = args[8];
  PyObject* const next_rewards = args[9];
  PyObject* const next_dones = args[10];
  PyObject* const out = args[11];
  const View v = read_tensor(kOp, "values", values);
  const View r = read_tensor(kOp, "rewards", rewards);
  const View d = read_tensor(kOp, "dones", dones);
  const View w = read_tensor(kOp, "importance", importance);
  const View nv = read_optional(kOp, "next_values", next_values);
  const View nr = read_optional(kOp, "next_rewards", next_rewards);
  const View nd = read_optional(kOp, "next_dones", next_dones);
  const View a = read_tensor(kOp, "out", out);

  expect_ndim(kOp, "values", v, 2, "[S, T]");
  expect_real(kOp, "values", v);
  const int64_t segments = v.shape[0], horizon = v.shape[1];
  expect_shape(kOp, "rewards", r, {segments, horizon}, "[S, T]");
  expect_real(kOp, "rewards", r);
  expect_shape(kOp, "dones", d, {segments, horizon}, "[S, T]");
  expect_flag(kOp, "dones", d);
  expect_shape(kOp, "importance", w, {segments, horizon}, "[S, T]");
  expect_real(kOp, "importance", w);
  expect_shape(kOp, "out", a, {segments, horizon}, "[S, T]");
  expect_dtype(kOp, "out", a, v.dtype);
  if (absent(nv) != absent(nr) || absent(nv) != absent(nd)) {
    throw Error(PyExc_ValueError,
                "puff_advantage: next_values, next_rewards and next_dones must be given together or not at all");
  }
  if (!absent(nv)) {
    expect_shape(kOp, "next_values", nv, {segments}, "[S]");
    expect_real(kOp, "next_values", nv);
    expect_shape(kOp, "next_rewards", nr, {segments}, "[S]");
    expect_real(kOp, "next_rewards", nr);
    expect_shape(kOp, "next_dones", nd, {segments}, "[S]");
    expect_flag(kOp, "next_dones", nd);
  }
  expect_no_self_overlap(kOp, "out", a);
  expect_disjoint(kOp, "out", a, "values", v);
  expect_disjoint(kOp, "out", a, "rewards", r);
  expect_disjoint(kOp, "out", a, "dones", d);
  expect_disjoint(kOp, "out", a, "importance", w);
  expect_disjoint(kOp, "out", a, "next_values", nv);
  expect_disjoint(kOp, "out", a, "next_rewards", nr);
  expect_disjoint(kOp, "out", a, "next_dones", nd);

  PuffAdvantageParams p;
  p.segments = segments;
  p.horizon = horizon;
  p.values = as_matrix(v);
  p.rewards = as_matrix(r);
  p.dones = as_matrix(d);
  p.importance = as_matrix(w);
  if (!absent(nv)) {
    p.next_values = as_column(nv);
    p.next_rewards = as_column(nr);
    p.next_dones = as_column(nd);
  }
  p.advantages = as_matrix(a);
  p.gamma = read_unit_interval(kOp, "gamma", gamma);
  p.gae_lambda = read_unit_interval(kOp, "gae_lambda", gae_lambda);
  p.rho_clip = read_non_negative(kOp, "rho_clip", rho_clip);
  p.c_clip = read_non_negative(kOp, "c_clip", c_clip);
  mark_written(out);
  run_kernel(5 * view_bytes(a), [&] { puff_advantage(p); });
}

}  // namespace

void bind_puff_advantage(PyObject* module) { add_op<12, puff_advantage_checked>(module, kOp); }

}  // namespace hotloop
