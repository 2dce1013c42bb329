#include "../cpu/pixel_linear.h"
#include "../cpu/pixel_linear_grad.h"

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
constexpr const char* kGradOp = "pixel_linear_grad";

void expect_whole_rows(const char* op, const char* arg, const View& view) {
  if (view.shape[0] > 0 && view.shape[1] > 1 && view.stride[1] != 1) {
    value_error(op, arg, "contiguous in its last dimension", "a stride of " + std::to_string(view.stride[1]));
  }
}

// A matrix whose rows the kernels read, or write, number by number.
View read_rows(const char* op, const char* arg, PyObject* object, const char* layout, DType dtype) {
  const View view = read_tensor(op, arg, object);
  expect_ndim(op, arg, view, 2, layout);
  expect_dtype(op, arg, view, dtype);
  expect_whole_rows(op, arg, view);
  return view;
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
  const View pixels = read_rows(kOp, "pixels", args[0], "[N, in_features]", DType::u8);
  const View weight = read_rows(kOp, "weight", args[1], "[out_features, in_features]", DType::f32);
  const View bias = read_optional(kOp, "bias", args[2]);
  const View out = read_tensor(kOp, "out", args[3]);
  expect_shape(kOp, "weight", weight, {weight.shape[0], pixels.shape[1]}, "[out_features, in_features]");
  if (pixels.shape[1] > kByteTerms) {
    value_error(kOp, "pixels", "of at most " + std::to_string(kByteTerms) + " in_features",
                std::to_string(pixels.shape[1]));
  }
  if (!absent(bias)) {
    expect_shape(kOp, "bias", bias, {weight.shape[0]}, "[out_features]");
    expect_dtype(kOp, "bias", bias, DType::f32);
  }
  expect_output(kOp, "out", out, {pixels.shape[0], weight.shape[0]}, "[N, out_features]", DType::f32);
  expect_whole_rows(kOp, "out", out);
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

// args: pixels, grad, out
void pixel_linear_grad_checked(PyObject* const* args) {
  const View pixels = read_rows(kGradOp, "pixels", args[0], "[N, in_features]", DType::u8);
  const View grad = read_rows(kGradOp, "grad", args[1], "[N, out_features]", DType::f32);
  const View out = read_tensor(kGradOp, "out", args[2]);
  expect_shape(kGradOp, "grad", grad, {pixels.shape[0], grad.shape[1]}, "[N, out_features]");
  expect_output(kGradOp, "out", out, {grad.shape[1], pixels.shape[1]}, "[out_features, in_features]", DType::f32);
  expect_whole_rows(kGradOp, "out", out);
  expect_disjoint(kGradOp, "out", out, "pixels", pixels);
  expect_disjoint(kGradOp, "out", out, "grad", grad);

  PixelLinearGradParams p;
  p.pixels = reinterpret_cast<const uint8_t*>(pixels.data);
  p.pixels_stride = pixels.stride[0];
  p.grad = reinterpret_cast<const float*>(grad.data);
  p.grad_stride = grad.stride[0];
  p.out = reinterpret_cast<float*>(out.data);
  p.out_stride = out.stride[0];
  p.rows = pixels.shape[0];
  p.width = pixels.shape[1];
  p.outputs = grad.shape[1];
  const size_t padded = static_cast<size_t>(pixel_grad_chunks(p.outputs) * kPixelGradChunk);
  std::vector<float> units(padded);
  std::vector<uint8_t> bad(padded);
  p.units = units.data();
  p.bad = bad.data();
  p.room = digits_room(pixel_grad_bytes(p.width, p.outputs));
  mark_written(args[2]);
  run_kernel(view_bytes(pixels) + view_bytes(grad) + view_bytes(out), [&] { pixel_linear_grad(p); });
}

}  // namespace

void bind_pixel_linear(PyObject* module) {
  add_op<4, pixel_linear_checked>(module, kOp);
  add_op<3, pixel_linear_grad_checked>(module, kGradOp);
}

}  // namespace hotloop
