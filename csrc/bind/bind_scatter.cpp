#include "../cpu/scatter.h"

#include "backend.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "leaves.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "scatter_";

// args: targets, indices, sources
void scatter_checked(PyObject* const* args) {
  PyObject* const targets = args[0];
  PyObject* const indices = args[1];
  PyObject* const sources = args[2];
  ScatterParams p;
  p.targets = read_tensors(kOp, "targets", targets);
  const View i = read_tensor(kOp, "indices", indices);
  p.sources = read_tensors(kOp, "sources", sources);
  expect_same_length(kOp, "sources", p.sources, "targets", p.targets);
  expect_leading(kOp, "targets", p.targets, 1);
  expect_ndim(kOp, "indices", i, 1, "[k]");
  expect_rows(kOp, "sources", p.sources, i.shape[0], p.targets, 1);
  expect_indices(kOp, "indices", i, p.targets.empty() ? 0 : p.targets[0].shape[0], "the first size of targets");
  expect_all_disjoint(kOp, "targets", p.targets, "sources", p.sources);
  expect_all_disjoint(kOp, "targets", p.targets, "indices", {i});
  p.indices = reinterpret_cast<const int64_t*>(i.data);
  p.index_stride = i.stride[0];
  p.count = i.shape[0];
  mark_written_all(targets);
  HL_RUN_WITH(scatter_scratch_bytes(p), scatter, kOp, total_bytes(p.sources), p);
}

}  // namespace

void bind_scatter(PyObject* module) { add_op<3, scatter_checked>(module, kOp); }

}  // namespace hotloop
