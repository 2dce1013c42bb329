#include "../cpu/last_actions.h"

#include "backend.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "scalar_arg.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kRead = "last_actions_read";
constexpr const char* kWrite = "last_actions_write_";

void expect_slice(const char* op, int64_t start, int64_t count, int64_t agents) {
  if (start + count > agents) {
    throw Error(PyExc_IndexError, std::string(op) + ": agents [" + std::to_string(start) + ", " +
                                      std::to_string(start + count) + ") must lie in [0, " +
                                      std::to_string(agents) + ")");
  }
}

// args: last, start, count, dones, out
void read_checked(PyObject* const* args) {
  PyObject* const last = args[0];
  PyObject* const start = args[1];
  PyObject* const count = args[2];
  PyObject* const dones = args[3];
  PyObject* const out = args[4];
  LastActionsReadParams p;
  p.last = read_tensor(kRead, "last", last);
  p.out = read_tensor(kRead, "out", out);
  const View d = read_optional(kRead, "dones", dones);
  expect_ndim(kRead, "last", p.last, 2, "[A, k]");
  expect_ndim(kRead, "out", p.out, 2, "[n, k]");
  p.start = read_int(kRead, "start", start, 0, p.last.shape[0]);
  const int64_t n = read_int(kRead, "count", count, 0, p.last.shape[0]);
  expect_slice(kRead, p.start, n, p.last.shape[0]);
  expect_shape(kRead, "out", p.out, {n, p.last.shape[1]}, "[n, k]");
  if (!absent(d)) {
    expect_shape(kRead, "dones", d, {n}, "[n]");
    expect_flag(kRead, "dones", d);
    expect_disjoint(kRead, "out", p.out, "dones", d);
    p.dones = d;
  }
  expect_no_self_overlap(kRead, "out", p.out);
  expect_disjoint(kRead, "out", p.out, "last", p.last);
  mark_written(out);
  HL_RUN(last_actions_read, kRead, view_bytes(p.out), p);
}

// args: last, start, actions
void write_checked(PyObject* const* args) {
  PyObject* const last = args[0];
  PyObject* const start = args[1];
  PyObject* const actions = args[2];
  LastActionsWriteParams p;
  p.last = read_tensor(kWrite, "last", last);
  p.actions = read_tensor(kWrite, "actions", actions);
  expect_ndim(kWrite, "last", p.last, 2, "[A, k]");
  expect_ndim(kWrite, "actions", p.actions, 2, "[n, k]");
  expect_shape(kWrite, "actions", p.actions, {p.actions.shape[0], p.last.shape[1]}, "[n, k]");
  p.start = read_int(kWrite, "start", start, 0, p.last.shape[0]);
  expect_slice(kWrite, p.start, p.actions.shape[0], p.last.shape[0]);
  expect_no_self_overlap(kWrite, "last", p.last);
  expect_disjoint(kWrite, "last", p.last, "actions", p.actions);
  mark_written(last);
  HL_RUN(last_actions_write, kWrite, view_bytes(p.actions), p);
}

}  // namespace

void bind_last_actions(PyObject* module) {
  add_op<5, read_checked>(module, kRead);
  add_op<3, write_checked>(module, kWrite);
}

}  // namespace hotloop
