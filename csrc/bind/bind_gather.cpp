#include "../cpu/gather.h"

#include "backend.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "leaves.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "gather";

// args: sources, indices, out
void gather_checked(PyObject* const* args) {
  PyObject* const sources = args[0];
  PyObject* const indices = args[1];
  PyObject* const out = args[2];
  GatherParams p;
  p.sources = read_tensors(kOp, "sources", sources);
  const View i = read_tensor(kOp, "indices", indices);
  p.outputs = read_tensors(kOp, "out", out);
  expect_same_length(kOp, "out", p.outputs, "sources", p.sources);
  expect_leading(kOp, "sources", p.sources, 1);
  expect_ndim(kOp, "indices", i, 1, "[k]");
  expect_rows(kOp, "out", p.outputs, i.shape[0], p.sources, 1);
  expect_indices(kOp, "indices", i, p.sources.empty() ? 0 : p.sources[0].shape[0], "the first size of sources");
  expect_all_disjoint(kOp, "out", p.outputs, "sources", p.sources);
  expect_all_disjoint(kOp, "out", p.outputs, "indices", {i});
  p.indices = reinterpret_cast<const int64_t*>(i.data);
  p.index_stride = i.stride[0];
  p.count = i.shape[0];
  mark_written_all(out);
  if (p.sources.empty() || p.count == 0) return;
  HL_RUN(gather, kOp, total_bytes(p.outputs), p);
}

}  // namespace

void bind_gather(PyObject* module) { add_op<3, gather_checked>(module, kOp); }

}  // namespace hotloop
