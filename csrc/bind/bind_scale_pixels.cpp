#include "../cpu/scale_pixels.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "scale_pixels";

// args: pixels, out
void scale_pixels_checked(PyObject* const* args) {
  const View x = read_tensor(kOp, "pixels", args[0]);
  const View y = read_tensor(kOp, "out", args[1]);
  expect_dtype(kOp, "pixels", x, DType::u8);
  expect_dtype(kOp, "out", y, DType::f32);
  expect_same_shape(kOp, "out", y, x);
  expect_no_self_overlap(kOp, "out", y);
  expect_disjoint(kOp, "out", y, "pixels", x);
  std::vector<PixelRun> runs;
  for_joint_runs<2>({x, y}, [&](const PixelRun& run) { runs.push_back(run); });
  ScalePixelsParams p;
  p.runs = runs.data();
  p.count = static_cast<int64_t>(runs.size());
  p.bytes = view_bytes(x) + view_bytes(y);
  mark_written(args[1]);
  run_kernel(p.bytes, [&] { scale_pixels(p); });
}

}  // namespace

void bind_scale_pixels(PyObject* module) { add_op<2, scale_pixels_checked>(module, kOp); }

}  // namespace hotloop
