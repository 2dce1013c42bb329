#include "../cpu/pixel_linear.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "bind_ops.h"
#include "fastcall.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "pixel_linear";

void expect_whole_rows(const char* arg, const View& view) {
  if (view.shape[0] > 0 && view.shape[1] > 1 && view.stride[1] != 1) {
    value_error(kOp, arg, "contiguous in its last dimension", "a stride of " + std::to_string(view.stride[1]));
  }
}

// Kept by the thread, for the weights of a policy are written as digits once a step and memory of their size would be
// given back to the system, and faulted in again, every time.
int8_t* digits_room(int64_t bytes) {
  constexpr int64_t kLine = 64;
  thread_local std::vector<int8_t> room;
  if (static_cast<int64_t>(room.size()) < bytes + kLine) room.resize(static_cast<size_t>(bytes + kLine));
  void* start = room.data();
  size_t space = room.size();
  return static_cast<int8_t*>(std::align(kLine, static_cast<size_t>(bytes), start, space));
}

// args: pixels, weight, bias, out
void pixel_linear_checked(PyObject* const* args) {
  const View pixels = read_tensor(kOp, "pixels", args[0]);
  const View weight = read_tensor(kOp, "weight", args[1]);
  const View bias = read_optional(kOp, "bias", args[2]);
  const View out = read_tensor(kOp, "out", args[3]);
  expect_ndim(kOp, "pixels", pixels, 2, "[N, in_features]");
  expect_dtype(kOp, "pixels", pixels, DType::u8);
  expect_ndim(kOp, "weight", weight, 2, "[out_features, in_features]");
  expect_shape(kOp, "weight", weight, {weight.shape[0], pixels.shape[1]}, "[out_features, in_features]");
  expect_dtype(kOp, "weight", weight, DType::f32);
  if (pixels.shape[1] > kPixelMaxWidth) {
    value_error(kOp, "pixels", "of at most " + std::to_string(kPixelMaxWidth) + " in_features",
                std::to_string(pixels.shape[1]));
  }
  if (!absent(bias)) {
    expect_shape(kOp, "bias", bias, {weight.shape[0]}, "[out_features]");
    expect_dtype(kOp, "bias", bias, DType::f32);
  }
  expect_output(kOp, "out", out, {pixels.shape[0], weight.shape[0]}, "[N, out_features]", DType::f32);
  expect_whole_rows("pixels", pixels);
  expect_whole_rows("weight", weight);
  expect_whole_rows("out", out);
  expect_disjoint(kOp, "out", out, "pixels", pixels);
  expect_disjoint(kOp, "out", out, "weight", weight);
  if (!absent(bias)) expect_disjoint(kOp, "out", out, "bias", bias);

  PixelLinearParams p;
  p.pixels = reinterpret_cast<const uint8_t*>(pixels.data);
  p.pixels_stride = pixels.stride[0];
  p.weight = reinterpret_cast<const float*>(weight.data);
  p.weight_stride = weight.stride[0];
  if (!absent(bias)) {
    p.bias = reinterpret_cast<const float*>(bias.data);
    p.bias_stride = bias.stride[0];
  }
  p.out = reinterpret_cast<float*>(out.data);
  p.out_stride = out.stride[0];
  p.rows = pixels.shape[0];
  p.width = pixels.shape[1];
  p.outputs = weight.shape[0];
  std::vector<float> scales(static_cast<size_t>(2 * pixel_panels(p.outputs) * kPixelLanes));
  p.scales = scales.data();
  p.digits = digits_room(pixel_panels(p.outputs) * pixel_panel_bytes(p.width));
  mark_written(args[3]);
  run_kernel(view_bytes(pixels) + view_bytes(weight) + view_bytes(out), [&] { pixel_linear(p); });
}

}  // namespace

void bind_pixel_linear(PyObject* module) { add_op<4, pixel_linear_checked>(module, kOp); }

}  // namespace hotloop
