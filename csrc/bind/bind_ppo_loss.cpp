#include "../cpu/ppo_loss.h"

#include "backend.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "scalar_arg.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "ppo_loss";
constexpr int kInputs = 9;
constexpr const char* kNames[kInputs] = {"new_log_prob", "old_log_prob", "advantages",
                                         "new_values",   "old_values",   "returns",
                                         "entropy",      "prio_weights", "valid"};

// [N] as [1, N]
Matrix as_samples(const View& view, int first_dim = 0) {
  Matrix m;
  m.data = view.data;
  m.dtype = view.dtype;
  const int dims = view.ndim - first_dim;
  m.row_stride = dims == 2 ? view.stride[first_dim] : 0;
  m.time_stride = view.stride[view.ndim - 1];
  return m;
}

double read_finite(const char* arg, PyObject* object) {
  const double value = read_double(kOp, arg, object);
  if (!std::isfinite(value)) value_error(kOp, arg, "finite", std::to_string(value));
  return value;
}

// args: the inputs as named above, then clip_coef, vf_clip_coef, vf_coef, ent_coef, normalize_advantage, eps, loss,
// statistics, gradients
void ppo_loss_checked(PyObject* const* args) {
  View in[kInputs];
  for (int i = 0; i < kInputs; ++i) {
    in[i] = i < 7 ? read_tensor(kOp, kNames[i], args[i]) : read_optional(kOp, kNames[i], args[i]);
  }
  const View loss = read_tensor(kOp, "loss", args[15]);
  const View statistics = read_tensor(kOp, "statistics", args[16]);
  const View gradients = read_optional(kOp, "gradients", args[17]);
  const View& first = in[0];
  expect_float(kOp, kNames[0], first);
  if (first.ndim != 1 && first.ndim != 2) value_error(kOp, kNames[0], "[N] or [B, T]", describe(first));
  const bool flat = first.ndim == 1;
  for (int i = 1; i < kInputs; ++i) {
    if (absent(in[i])) continue;
    if (flat) {
      expect_shape(kOp, kNames[i], in[i], {first.shape[0]}, "[N]");
    } else {
      expect_shape(kOp, kNames[i], in[i], {first.shape[0], first.shape[1]}, "[B, T]");
    }
    if (i == 3 || i == 6) {
      expect_dtype(kOp, kNames[i], in[i], first.dtype);  // its gradient comes in that dtype
    } else if (i == 8) {
      expect_flag(kOp, kNames[i], in[i]);
    } else {
      expect_real(kOp, kNames[i], in[i]);
    }
  }
  PpoLossParams p;
  p.rows = flat ? 1 : first.shape[0];
  p.columns = flat ? first.shape[0] : first.shape[1];
  p.clip_coef = read_non_negative(kOp, "clip_coef", args[9]);
  p.vf_clip_coef = args[10] == Py_None ? -1.0 : read_non_negative(kOp, "vf_clip_coef", args[10]);
  p.vf_coef = read_finite("vf_coef", args[11]);
  p.ent_coef = read_finite("ent_coef", args[12]);
  p.normalize_advantage = args[13] == Py_True;
  p.eps = read_non_negative(kOp, "eps", args[14]);
  expect_shape(kOp, "loss", loss, {}, "a scalar");
  expect_dtype(kOp, "loss", loss, first.dtype);
  expect_shape(kOp, "statistics", statistics, {kPpoStatistics}, "[12]");
  expect_dtype(kOp, "statistics", statistics, DType::f64);
  if (statistics.stride[0] != 1) value_error(kOp, "statistics", "contiguous", "a strided view");
  if (!absent(gradients)) {
    if (flat) {
      expect_shape(kOp, "gradients", gradients, {3, p.columns}, "[3, N]");
    } else {
      expect_shape(kOp, "gradients", gradients, {3, p.rows, p.columns}, "[3, B, T]");
    }
    expect_dtype(kOp, "gradients", gradients, first.dtype);
    expect_no_self_overlap(kOp, "gradients", gradients);
    expect_disjoint(kOp, "gradients", gradients, "loss", loss);
    expect_disjoint(kOp, "gradients", gradients, "statistics", statistics);
  }
  expect_disjoint(kOp, "statistics", statistics, "loss", loss);
  for (int i = 0; i < kInputs; ++i) {
    expect_disjoint(kOp, "loss", loss, kNames[i], in[i]);
    expect_disjoint(kOp, "statistics", statistics, kNames[i], in[i]);
    if (!absent(gradients)) expect_disjoint(kOp, "gradients", gradients, kNames[i], in[i]);
  }
  Matrix* views[kInputs] = {&p.new_log_prob, &p.old_log_prob, &p.advantages,   &p.new_values, &p.old_values,
                            &p.returns,      &p.entropy,      &p.prio_weights, &p.valid};
  for (int i = 0; i < kInputs; ++i) {
    if (!absent(in[i])) *views[i] = as_samples(in[i]);
  }
  p.loss = loss.data;
  p.statistics = reinterpret_cast<double*>(statistics.data);
  for (int64_t k = 0; k < 3 && !absent(gradients); ++k) {
    p.gradients[k] = as_samples(gradients, 1);
    p.gradients[k].data += k * gradients.stride[0] * itemsize(first.dtype);
  }
#if !defined(HL_BIND_CUDA)
  const int64_t blocks = (p.rows * p.columns + kPpoBlock - 1) / kPpoBlock;
  std::vector<double> partial(static_cast<size_t>(blocks * kPpoSums));
  p.partial = partial.data();
#endif
  for (int i = 15; i < (absent(gradients) ? 17 : 18); ++i) mark_written(args[i]);
  HL_RUN_WITH(ppo_loss_scratch_bytes(p), ppo_loss, kOp, 12 * view_bytes(first), p);
}

}  // namespace

void bind_ppo_loss(PyObject* module) { add_op<18, ppo_loss_checked>(module, kOp); }

}  // namespace hotloop
