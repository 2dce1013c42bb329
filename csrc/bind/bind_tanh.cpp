#include "../cpu/tanh.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "tanh";

// In place: every number is read before it is written.
bool same_memory(const View& a, const View& b) {
  bool same = a.data == b.data;
  for (int d = 0; same && d < a.ndim; ++d) same = a.shape[d] == 1 || a.stride[d] == b.stride[d];
  return same;
}

// args: x, out
void tanh_checked(PyObject* const* args) {
  const View x = read_tensor(kOp, "x", args[0]);
  const View y = read_tensor(kOp, "out", args[1]);
  expect_real(kOp, "x", x);
  expect_same_shape(kOp, "out", y, x);
  expect_dtype(kOp, "out", y, x.dtype);
  expect_no_self_overlap(kOp, "out", y);
  if (!same_memory(x, y)) expect_disjoint(kOp, "out", y, "x", x);
  std::vector<TanhRun> runs;
  for_joint_runs<2>({x, y}, [&](const TanhRun& run) { runs.push_back(run); });
  TanhParams p;
  p.runs = runs.data();
  p.count = static_cast<int64_t>(runs.size());
  p.dtype = x.dtype;
  p.bytes = 4 * view_bytes(x);  // a tangent is some copies
  mark_written(args[1]);
  run_kernel(p.bytes, [&] { tanh(p); });
}

}  // namespace

void bind_tanh(PyObject* module) { add_op<2, tanh_checked>(module, kOp); }

}  // namespace hotloop
