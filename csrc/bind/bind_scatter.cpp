#include "../cpu/scatter.h"

#include "bind_ops.h"
#include "leaves.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "scatter_";

void scatter_checked(py::handle targets, py::handle indices, py::handle sources) {
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
  run_kernel(total_bytes(p.sources), [&] { scatter(p); });
}

}  // namespace

void bind_scatter(py::module_& m) {
  m.def(kOp, [](py::handle targets, py::handle indices, py::handle sources) {
    return eager([&] { scatter_checked(targets, indices, sources); });
  });
}

}  // namespace hotloop
