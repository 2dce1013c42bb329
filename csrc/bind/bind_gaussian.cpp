#include "../cpu/gaussian.h"

#include <limits>

#include "backend.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "scalar_arg.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kSample = "gaussian_sample";
constexpr const char* kEvaluate = "gaussian_evaluate";
constexpr const char* kBackward = "gaussian_evaluate_backward";
constexpr int64_t kMaxWidth = int64_t{1} << 24;  // a pair's number shares a counter word with its stream
constexpr int64_t kMaxFirstRow = (int64_t{1} << 32) - 1;  // the number of a block has 32 bits

DType arithmetic_dtype(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

double greatest_below_one(DType dtype) {
  switch (dtype) {
    case DType::bf16: return 1.0 - 0x1p-8;
    case DType::f16: return 1.0 - 0x1p-11;
    case DType::f32: return 1.0 - 0x1p-24;
    default: return 1.0 - 0x1p-53;
  }
}

void expect_mean(const char* op, const View& mean) {
  expect_ndim(op, "mean", mean, 2, "[N, k]");
  expect_real(op, "mean", mean);
  if (mean.shape[1] > kMaxWidth) value_error(op, "mean", "[N, k] with k <= 2**24", describe(mean));
}

// log_std as [N, k] or [k], the second with a row stride of 0
Matrix read_log_std(const char* op, const View& log_std, const View& mean) {
  expect_real(op, "log_std", log_std);
  if (log_std.ndim == 1) {
    expect_shape(op, "log_std", log_std, {mean.shape[1]}, "[k]");
    Matrix m = as_column(log_std);
    m.time_stride = m.row_stride;
    m.row_stride = 0;
    return m;
  }
  expect_shape(op, "log_std", log_std, {mean.shape[0], mean.shape[1]}, "[N, k] or [k]");
  return as_matrix(log_std);
}

// args: mean, log_std, seed, step, squash, first_row, actions, log_prob, entropy
void sample_checked(PyObject* const* args) {
  const char* op = kSample;
  const View m = read_tensor(op, "mean", args[0]);
  const View s = read_tensor(op, "log_std", args[1]);
  const View a = read_tensor(op, "out[0]", args[6]);
  const View l = read_tensor(op, "out[1]", args[7]);
  const View e = read_tensor(op, "out[2]", args[8]);
  expect_mean(op, m);
  GaussianParams p;
  p.draw = true;
  p.rows = m.shape[0];
  p.width = m.shape[1];
  p.mean = as_matrix(m);
  p.log_std = read_log_std(op, s, m);
  p.seed = static_cast<uint64_t>(
      read_int(op, "seed", args[2], std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()));
  p.step = static_cast<uint64_t>(read_int(op, "step", args[3], 0, std::numeric_limits<int64_t>::max()));
  p.squash = args[4] == Py_True;
  p.first_row = static_cast<uint64_t>(read_int(op, "first_row", args[5], 0, kMaxFirstRow));
  const DType dtype = arithmetic_dtype(m.dtype);
  expect_output(op, "out[0]", a, {p.rows, p.width}, "[N, k]", dtype);
  expect_output(op, "out[1]", l, {p.rows}, "[N]", dtype);
  expect_output(op, "out[2]", e, {p.rows}, "[N]", dtype);
  const char* outs[] = {"out[0]", "out[1]", "out[2]"};
  const View* written[] = {&a, &l, &e};
  for (int i = 0; i < 3; ++i) {
    expect_disjoint(op, outs[i], *written[i], "mean", m);
    expect_disjoint(op, outs[i], *written[i], "log_std", s);
    for (int j = 0; j < i; ++j) expect_disjoint(op, outs[i], *written[i], outs[j], *written[j]);
  }
  p.limit = greatest_below_one(dtype);
  p.actions = as_matrix(a);
  p.log_prob = as_column(l);
  p.entropy = as_column(e);
  for (int i = 6; i < 9; ++i) mark_written(args[i]);
  HL_RUN(gaussian, op, 64 * view_numel(m), p);
}

// args: mean, log_std, actions, squash, log_prob, entropy
void evaluate_checked(PyObject* const* args) {
  const char* op = kEvaluate;
  const View m = read_tensor(op, "mean", args[0]);
  const View s = read_tensor(op, "log_std", args[1]);
  const View a = read_tensor(op, "actions", args[2]);
  const View l = read_tensor(op, "log_prob", args[4]);
  const View e = read_tensor(op, "entropy", args[5]);
  expect_mean(op, m);
  GaussianParams p;
  p.rows = m.shape[0];
  p.width = m.shape[1];
  p.mean = as_matrix(m);
  p.log_std = read_log_std(op, s, m);
  expect_shape(op, "actions", a, {p.rows, p.width}, "[N, k]");
  expect_real(op, "actions", a);
  p.squash = args[3] == Py_True;
  expect_output(op, "log_prob", l, {p.rows}, "[N]", arithmetic_dtype(m.dtype));
  expect_output(op, "entropy", e, {p.rows}, "[N]", arithmetic_dtype(m.dtype));
  const View* inputs[] = {&m, &s, &a};
  const char* names[] = {"mean", "log_std", "actions"};
  for (int i = 0; i < 3; ++i) {
    expect_disjoint(op, "log_prob", l, names[i], *inputs[i]);
    expect_disjoint(op, "entropy", e, names[i], *inputs[i]);
  }
  expect_disjoint(op, "entropy", e, "log_prob", l);
  p.limit = greatest_below_one(a.dtype);
  p.actions = as_matrix(a);
  p.log_prob = as_column(l);
  p.entropy = as_column(e);
  mark_written(args[4]);
  mark_written(args[5]);
  HL_RUN(gaussian, op, 64 * view_numel(m), p);
}

// args: grad_log_prob, grad_entropy, mean, log_std, actions, squash, grad_mean, grad_log_std
void backward_checked(PyObject* const* args) {
  const char* op = kBackward;
  const View gl = read_tensor(op, "grad_log_prob", args[0]);
  const View ge = read_tensor(op, "grad_entropy", args[1]);
  const View m = read_tensor(op, "mean", args[2]);
  const View s = read_tensor(op, "log_std", args[3]);
  const View a = read_tensor(op, "actions", args[4]);
  const View gm = read_tensor(op, "grad_mean", args[6]);
  const View gs = read_tensor(op, "grad_log_std", args[7]);
  expect_mean(op, m);
  GaussianBackwardParams p;
  p.rows = m.shape[0];
  p.width = m.shape[1];
  p.mean = as_matrix(m);
  p.log_std = read_log_std(op, s, m);
  p.shared = s.ndim == 1;
  expect_shape(op, "actions", a, {p.rows, p.width}, "[N, k]");
  expect_real(op, "actions", a);
  p.squash = args[5] == Py_True;
  expect_shape(op, "grad_log_prob", gl, {p.rows}, "[N]");
  expect_real(op, "grad_log_prob", gl);
  expect_shape(op, "grad_entropy", ge, {p.rows}, "[N]");
  expect_real(op, "grad_entropy", ge);
  expect_output(op, "grad_mean", gm, {p.rows, p.width}, "[N, k]", m.dtype);
  if (p.shared) {
    expect_output(op, "grad_log_std", gs, {p.width}, "[k]", s.dtype);
  } else {
    expect_output(op, "grad_log_std", gs, {p.rows, p.width}, "[N, k]", s.dtype);
  }
  const View* inputs[] = {&gl, &ge, &m, &s, &a};
  const char* names[] = {"grad_log_prob", "grad_entropy", "mean", "log_std", "actions"};
  for (int i = 0; i < 5; ++i) {
    expect_disjoint(op, "grad_mean", gm, names[i], *inputs[i]);
    expect_disjoint(op, "grad_log_std", gs, names[i], *inputs[i]);
  }
  expect_disjoint(op, "grad_log_std", gs, "grad_mean", gm);
  p.limit = greatest_below_one(a.dtype);
  p.actions = as_matrix(a);
  p.grad_log_prob = as_column(gl);
  p.grad_entropy = as_column(ge);
  p.grad_mean = as_matrix(gm);
  if (p.shared) {
    p.grad_log_std = as_column(gs);
    p.grad_log_std.time_stride = p.grad_log_std.row_stride;
  } else {
    p.grad_log_std = as_matrix(gs);
  }
#if !defined(HL_BIND_CUDA)
  const int64_t blocks = (p.rows + kGaussianBlock - 1) / kGaussianBlock;
  std::vector<double> partial(p.shared ? static_cast<size_t>(blocks * p.width) : 0);
  p.partial = partial.data();
#endif
  mark_written(args[6]);
  mark_written(args[7]);
  HL_RUN_WITH(gaussian_backward_scratch_bytes(p), gaussian_backward, op, 64 * view_numel(m), p);
}

}  // namespace

void bind_gaussian(PyObject* module) {
  add_op<9, sample_checked>(module, kSample);
  add_op<6, evaluate_checked>(module, kEvaluate);
  add_op<8, backward_checked>(module, kBackward);
}

}  // namespace hotloop
