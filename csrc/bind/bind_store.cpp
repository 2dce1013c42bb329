#include "../cpu/store.h"

#include "backend.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "leaves.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "store_";

// args: buffers, sources, rows, positions
void store_checked(PyObject* const* args) {
  PyObject* const buffers = args[0];
  PyObject* const sources = args[1];
  PyObject* const rows = args[2];
  PyObject* const positions = args[3];
  StoreParams p;
  p.buffers = read_tensors(kOp, "buffers", buffers);
  p.sources = read_tensors(kOp, "sources", sources);
  const View r = read_tensor(kOp, "rows", rows);
  const View t = read_tensor(kOp, "positions", positions);
  expect_same_length(kOp, "sources", p.sources, "buffers", p.buffers);
  expect_leading(kOp, "buffers", p.buffers, 2);
  expect_ndim(kOp, "rows", r, 1, "[n]");
  expect_shape(kOp, "positions", t, {r.shape[0]}, "[n]");
  expect_rows(kOp, "sources", p.sources, r.shape[0], p.buffers, 2);
  expect_indices(kOp, "rows", r, p.buffers.empty() ? 0 : p.buffers[0].shape[0], "segments of buffers");
  expect_indices(kOp, "positions", t, p.buffers.empty() ? 0 : p.buffers[0].shape[1], "horizon of buffers");
  expect_all_disjoint(kOp, "buffers", p.buffers, "sources", p.sources);
  expect_all_disjoint(kOp, "buffers", p.buffers, "rows", {r});
  expect_all_disjoint(kOp, "buffers", p.buffers, "positions", {t});
  p.rows = reinterpret_cast<const int64_t*>(r.data);
  p.positions = reinterpret_cast<const int64_t*>(t.data);
  p.row_stride = r.stride[0];
  p.position_stride = t.stride[0];
  p.count = r.shape[0];
  mark_written_all(buffers);
  HL_RUN(store, kOp, total_bytes(p.sources), p);
}

}  // namespace

void bind_store(PyObject* module) { add_op<4, store_checked>(module, kOp); }

}  // namespace hotloop
