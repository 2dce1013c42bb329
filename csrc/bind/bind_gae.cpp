#include "../cpu/gae.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "scalar_arg.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "gae";

// Any true entry, read through the strides; decides whether truncation_values may be missing.
bool any_true(const View& flags) {
  for (int64_t i = 0; i < flags.shape[0]; ++i) {
    for (int64_t j = 0; j < flags.shape[1]; ++j) {
      const int64_t offset = i * flags.stride[0] + j * flags.stride[1];
      const char* at = flags.data + offset * itemsize(flags.dtype);
      uint64_t bits = 0;
      std::memcpy(&bits, at, static_cast<size_t>(itemsize(flags.dtype)));
      if (is_floating(flags.dtype)) bits &= ~(uint64_t{1} << (8 * itemsize(flags.dtype) - 1));  // -0.0 is false
      if (bits != 0) return true;
    }
  }
  return false;
}

// args: rewards, values, terminated, truncated, last_values, truncation_values, valid, gamma, gae_lambda, time_major, advantages, returns
void gae_checked(PyObject* const* args) {
  PyObject* const rewards = args[0];
  PyObject* const values = args[1];
  PyObject* const terminated = args[2];
  PyObject* const truncated = args[3];
  PyObject* const last_values = args[4];
  PyObject* const truncation_values = args[5];
  PyObject* const valid = args[6];
  PyObject* const gamma = args[7];
  PyObject* const gae_lambda = args[8];
  const bool time_major = args[9] == Py_True;
  PyObject* const advantages = args[10];
  PyObject* const returns = args[11];
  const View v = read_tensor(kOp, "values", values);
  const View r = read_tensor(kOp, "rewards", rewards);
  const View te = read_tensor(kOp, "terminated", terminated);
  const View tr = read_optional(kOp, "truncated", truncated);
  const View lv = read_tensor(kOp, "last_values", last_values);
  const View tv = read_optional(kOp, "truncation_values", truncation_values);
  const View ok = read_optional(kOp, "valid", valid);
  const View a = read_tensor(kOp, "out[0]", advantages);
  const View ret = read_tensor(kOp, "out[1]", returns);

  const char* layout = time_major ? "[T, N]" : "[N, T]";
  expect_ndim(kOp, "values", v, 2, layout);
  expect_real(kOp, "values", v);
  const int64_t d0 = v.shape[0], d1 = v.shape[1];
  const int64_t rows = time_major ? d1 : d0, horizon = time_major ? d0 : d1;
  expect_shape(kOp, "rewards", r, {d0, d1}, layout);
  expect_real(kOp, "rewards", r);
  expect_shape(kOp, "terminated", te, {d0, d1}, layout);
  expect_flag(kOp, "terminated", te);
  expect_shape(kOp, "last_values", lv, {rows}, "[N]");
  expect_real(kOp, "last_values", lv);
  if (!absent(tr)) {
    expect_shape(kOp, "truncated", tr, {d0, d1}, layout);
    expect_flag(kOp, "truncated", tr);
  }
  if (!absent(tv)) {
    expect_shape(kOp, "truncation_values", tv, {d0, d1}, layout);
    expect_real(kOp, "truncation_values", tv);
  }
  if (!absent(ok)) {
    expect_shape(kOp, "valid", ok, {d0, d1}, layout);
    expect_flag(kOp, "valid", ok);
  }
  const char* outs[] = {"out[0]", "out[1]"};
  const View* written[] = {&a, &ret};
  for (int i = 0; i < 2; ++i) {
    expect_shape(kOp, outs[i], *written[i], {d0, d1}, layout);
    expect_dtype(kOp, outs[i], *written[i], v.dtype);
    expect_no_self_overlap(kOp, outs[i], *written[i]);
    expect_disjoint(kOp, outs[i], *written[i], "values", v);
    expect_disjoint(kOp, outs[i], *written[i], "rewards", r);
    expect_disjoint(kOp, outs[i], *written[i], "terminated", te);
    expect_disjoint(kOp, outs[i], *written[i], "truncated", tr);
    expect_disjoint(kOp, outs[i], *written[i], "last_values", lv);
    expect_disjoint(kOp, outs[i], *written[i], "truncation_values", tv);
    expect_disjoint(kOp, outs[i], *written[i], "valid", ok);
  }
  expect_disjoint(kOp, "out[1]", ret, "out[0]", a);

  GaeParams p;
  p.gamma = read_unit_interval(kOp, "gamma", gamma);
  p.gae_lambda = read_unit_interval(kOp, "gae_lambda", gae_lambda);
  if (!absent(tr) && absent(tv) && any_true(tr)) {
    throw Error(PyExc_ValueError,
                "gae: truncation_values must be given when truncated has true entries, got None "
                "(the value of each truncated episode's final observation)");
  }
  p.rows = rows;
  p.horizon = horizon;
  p.values = as_matrix(v, time_major);
  p.rewards = as_matrix(r, time_major);
  p.terminated = as_matrix(te, time_major);
  if (!absent(tr)) p.truncated = as_matrix(tr, time_major);
  if (!absent(tv)) p.truncation_values = as_matrix(tv, time_major);
  if (!absent(ok)) p.valid = as_matrix(ok, time_major);
  p.last_values = as_column(lv);
  p.advantages = as_matrix(a, time_major);
  p.returns = as_matrix(ret, time_major);
  mark_written(advantages);
  mark_written(returns);
  run_kernel(5 * view_bytes(a), [&] { gae(p); });
}

}  // namespace

void bind_gae(PyObject* module) { add_op<12, gae_checked>(module, kOp); }

}  // namespace hotloop
