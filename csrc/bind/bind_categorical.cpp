#include <limits>

#include "../cpu/categorical.h"

#include "backend.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "scalar_arg.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kSample = "categorical_sample";
constexpr const char* kEvaluate = "categorical_evaluate";
constexpr const char* kBackward = "categorical_evaluate_backward";
constexpr int64_t kMaxHeads = int64_t{1} << 24;  // a head's number shares a counter word with its stream
constexpr int64_t kMaxChoices = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxFirstRow =
    (int64_t{1} << 32) - 1;  // as for a Gaussian, where a row takes a block of 32 bits' number

// Which columns belong to which head, checked against the logits [N, A].
struct Heads {
  std::vector<int64_t> choices;
  bool single = true;  // nvec is None: actions are [N]

  Heads(const char* op, PyObject* nvec, const View& logits) {
    expect_ndim(op, "logits", logits, 2, "[N, A]");
    expect_real(op, "logits", logits);
    if (nvec == Py_None) {
      choices.push_back(logits.shape[1]);
      if (logits.shape[1] < 1) value_error(op, "logits", "[N, A] with A >= 1", describe(logits));
      return;
    }
    single = false;
    if (!PyList_Check(nvec) && !PyTuple_Check(nvec)) {
      type_error(op, "nvec", "a list or tuple of integers, or None", Py_TYPE(nvec)->tp_name);
    }
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(nvec);
    if (count < 1 || count > kMaxHeads) value_error(op, "nvec", "of 1 to 2**24 entries", python_str(nvec));
    int64_t sum = 0;
    for (Py_ssize_t i = 0; i < count; ++i) {
      choices.push_back(read_int(op, "nvec", PySequence_Fast_GET_ITEM(nvec, i), 1, kMaxChoices));
      sum += choices.back();
    }
    if (sum != logits.shape[1]) {
      value_error(op, "logits", "[N, sum(nvec)] = [N, " + std::to_string(sum) + "]", describe(logits));
    }
  }
  int64_t count() const { return static_cast<int64_t>(choices.size()); }
};

DType arithmetic_dtype(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// actions [N] or [N, k] as a matrix [N, k]
Matrix read_actions(const char* op, const char* arg, const View& actions, const Heads& heads, int64_t rows) {
  if (heads.single && actions.ndim == 1) {
    expect_shape(op, arg, actions, {rows}, "[N]");
    return as_column(actions);
  }
  expect_shape(op, arg, actions, {rows, heads.count()}, heads.single ? "[N] or [N, 1]" : "[N, k]");
  return as_matrix(actions);
}

#if !defined(HL_BIND_CUDA)
// The first row whose action lies outside [0, limit), or -1; the common case takes no branch an element.
template <class Int>
int64_t first_outside(const char* data, int64_t stride, int64_t rows, int64_t limit, int64_t* choice) {
  const Int* at = reinterpret_cast<const Int*>(data);
  bool outside = false;
  for (int64_t n = 0; n < rows; ++n) {
    outside |= static_cast<uint64_t>(static_cast<int64_t>(at[n * stride])) >= static_cast<uint64_t>(limit);
  }
  for (int64_t n = 0; outside && n < rows; ++n) {
    *choice = static_cast<int64_t>(at[n * stride]);
    if (*choice < 0 || *choice >= limit) return n;
  }
  return -1;
}

int64_t first_outside(const Matrix& m, int64_t head, int64_t rows, int64_t limit, int64_t* choice) {
  const char* data = m.data + head * m.time_stride * itemsize(m.dtype);
  switch (m.dtype) {
    case DType::u8: return first_outside<uint8_t>(data, m.row_stride, rows, limit, choice);
    case DType::i8: return first_outside<int8_t>(data, m.row_stride, rows, limit, choice);
    case DType::i16: return first_outside<int16_t>(data, m.row_stride, rows, limit, choice);
    case DType::i32: return first_outside<int32_t>(data, m.row_stride, rows, limit, choice);
    default: return first_outside<int64_t>(data, m.row_stride, rows, limit, choice);
  }
}

#endif

void expect_choices(const char* op, const Matrix& actions, const Heads& heads, int64_t rows) {
  if (is_floating(actions.dtype) || actions.dtype == DType::b8) {
    type_error(op, "actions", "of an integer dtype", dtype_name(actions.dtype));
  }
#if !defined(HL_BIND_CUDA)  // looking at each would wait for the device: the kernel stops at one out of range
  for (int64_t h = 0; h < heads.count(); ++h) {
    const int64_t limit = heads.choices[static_cast<size_t>(h)];
    int64_t choice = 0;
    const int64_t n = first_outside(actions, h, rows, limit, &choice);
    if (n < 0) continue;
    throw Error(PyExc_IndexError, std::string(op) + ": actions[" + std::to_string(n) +
                                      (heads.single ? "" : ", " + std::to_string(h)) + "] must be in [0, " +
                                      std::to_string(limit) + "), got " + std::to_string(choice));
  }
#endif
}

// Where `complete`, each head of each row must be left a choice; on a device, where looking would wait for it, none is
// asked for.
Matrix read_mask(const char* op, const View& mask, const View& logits, const Heads& heads, bool complete) {
  if (absent(mask)) return Matrix{};
  expect_shape(op, "mask", mask, {logits.shape[0], logits.shape[1]}, "[N, A]");
  expect_dtype(op, "mask", mask, DType::b8);
#if !defined(HL_BIND_CUDA)
  for (int64_t n = 0; complete && n < mask.shape[0]; ++n) {
    int64_t column = 0;
    for (int64_t h = 0; h < heads.count(); ++h) {
      const int64_t end = column + heads.choices[static_cast<size_t>(h)];
      const char* row = mask.data + n * mask.stride[0];
      int64_t at = column;
      while (at < end && row[at * mask.stride[1]] == 0) ++at;
      if (at == end) {
        value_error(op, "mask", "true for at least one choice of each head",
                    "none in row " + std::to_string(n) + ", head " + std::to_string(h));
      }
      column = end;
    }
  }
#endif
  return as_matrix(mask);
}

// args: logits, mask, nvec, seed, step, first_row, actions, log_prob, entropy, log_probs (or None)
void sample_checked(PyObject* const* args) {
  const char* op = kSample;
  const View x = read_tensor(op, "logits", args[0]);
  const View m = read_optional(op, "mask", args[1]);
  const View a = read_tensor(op, "out[0]", args[6]);
  const View l = read_tensor(op, "out[1]", args[7]);
  const View e = read_tensor(op, "out[2]", args[8]);
  const View f = read_optional(op, "log_probs", args[9]);
  const Heads heads(op, args[2], x);
  CategoricalParams p;
  p.draw = true;
  p.seed = static_cast<uint64_t>(
      read_int(op, "seed", args[3], std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()));
  p.step = static_cast<uint64_t>(read_int(op, "step", args[4], 0, std::numeric_limits<int64_t>::max()));
  p.first_row = static_cast<uint64_t>(read_int(op, "first_row", args[5], 0, kMaxFirstRow));
  p.rows = x.shape[0];
  p.heads = heads.count();
  p.choices = heads.choices.data();
  p.logits = as_matrix(x);
  p.actions = read_actions(op, "out[0]", a, heads, p.rows);
  if (a.dtype != DType::i32 && a.dtype != DType::i64) type_error(op, "out[0]", "int32 or int64", describe(a));
  expect_no_self_overlap(op, "out[0]", a);
  expect_output(op, "out[1]", l, {p.rows}, "[N]", arithmetic_dtype(x.dtype));
  expect_output(op, "out[2]", e, {p.rows}, "[N]", arithmetic_dtype(x.dtype));
  if (!absent(f)) {
    expect_output(op, "log_probs", f, {p.rows, x.shape[1]}, "[N, A]", arithmetic_dtype(x.dtype));
    p.log_probs = as_matrix(f);
  }
  const char* outs[] = {"out[0]", "out[1]", "out[2]", "log_probs"};
  const View* written[] = {&a, &l, &e, &f};
  const int outputs = absent(f) ? 3 : 4;
  for (int i = 0; i < outputs; ++i) {
    expect_disjoint(op, outs[i], *written[i], "logits", x);
    expect_disjoint(op, outs[i], *written[i], "mask", m);
    for (int j = 0; j < i; ++j) expect_disjoint(op, outs[i], *written[i], outs[j], *written[j]);
  }
  p.mask = read_mask(op, m, x, heads, true);
  p.log_prob = as_column(l);
  p.entropy = as_column(e);
  for (int i = 6; i < 6 + outputs; ++i) mark_written(args[i]);
  HL_RUN_WITH(categorical_scratch_bytes(p), categorical, op, 4 * view_bytes(x), p);
}

// args: logits, actions, mask, nvec, log_prob, entropy, saved (or None)
void evaluate_checked(PyObject* const* args) {
  const char* op = kEvaluate;
  const View x = read_tensor(op, "logits", args[0]);
  const View a = read_tensor(op, "actions", args[1]);
  const View m = read_optional(op, "mask", args[2]);
  const View l = read_tensor(op, "log_prob", args[4]);
  const View e = read_tensor(op, "entropy", args[5]);
  const View s = read_optional(op, "saved", args[6]);
  const Heads heads(op, args[3], x);
  CategoricalParams p;
  p.rows = x.shape[0];
  p.heads = heads.count();
  p.choices = heads.choices.data();
  p.logits = as_matrix(x);
  p.actions = read_actions(op, "actions", a, heads, p.rows);
  expect_choices(op, p.actions, heads, p.rows);
  p.mask = read_mask(op, m, x, heads, true);
  const DType dtype = arithmetic_dtype(x.dtype);
  expect_output(op, "log_prob", l, {p.rows}, "[N]", dtype);
  expect_output(op, "entropy", e, {p.rows}, "[N]", dtype);
  if (!absent(s)) expect_output(op, "saved", s, {p.rows, 3 * p.heads}, "[N, 3k]", dtype);
  const char* outs[] = {"log_prob", "entropy", "saved"};
  const View* written[] = {&l, &e, &s};
  for (int i = 0; i < 3 && !absent(*written[i]); ++i) {
    expect_disjoint(op, outs[i], *written[i], "logits", x);
    expect_disjoint(op, outs[i], *written[i], "actions", a);
    expect_disjoint(op, outs[i], *written[i], "mask", m);
    for (int j = 0; j < i; ++j) expect_disjoint(op, outs[i], *written[i], outs[j], *written[j]);
  }
  p.log_prob = as_column(l);
  p.entropy = as_column(e);
  if (!absent(s)) p.saved = as_matrix(s);
  for (int i = 4; i < (absent(s) ? 6 : 7); ++i) mark_written(args[i]);
  HL_RUN_WITH(categorical_scratch_bytes(p), categorical, op, 4 * view_bytes(x), p);
}

// args: grad_log_prob, grad_entropy, logits, actions, mask, nvec, saved, grad_logits
void backward_checked(PyObject* const* args) {
  const char* op = kBackward;
  const View gl = read_tensor(op, "grad_log_prob", args[0]);
  const View ge = read_tensor(op, "grad_entropy", args[1]);
  const View x = read_tensor(op, "logits", args[2]);
  const View a = read_tensor(op, "actions", args[3]);
  const View m = read_optional(op, "mask", args[4]);
  const View s = read_tensor(op, "saved", args[6]);
  const View g = read_tensor(op, "grad_logits", args[7]);
  const Heads heads(op, args[5], x);
  CategoricalBackwardParams p;
  p.rows = x.shape[0];
  p.heads = heads.count();
  p.choices = heads.choices.data();
  p.logits = as_matrix(x);
  p.actions = read_actions(op, "actions", a, heads, p.rows);
  expect_choices(op, p.actions, heads, p.rows);
  p.mask = read_mask(op, m, x, heads, false);
  expect_shape(op, "grad_log_prob", gl, {p.rows}, "[N]");
  expect_real(op, "grad_log_prob", gl);
  expect_shape(op, "grad_entropy", ge, {p.rows}, "[N]");
  expect_real(op, "grad_entropy", ge);
  expect_shape(op, "saved", s, {p.rows, 3 * p.heads}, "[N, 3k]");
  expect_dtype(op, "saved", s, arithmetic_dtype(x.dtype));
  expect_output(op, "grad_logits", g, {p.rows, x.shape[1]}, "[N, A]", x.dtype);
  const View* inputs[] = {&gl, &ge, &x, &a, &m, &s};
  const char* names[] = {"grad_log_prob", "grad_entropy", "logits", "actions", "mask", "saved"};
  for (int i = 0; i < 6; ++i) expect_disjoint(op, "grad_logits", g, names[i], *inputs[i]);
  p.grad_log_prob = as_column(gl);
  p.grad_entropy = as_column(ge);
  p.saved = as_matrix(s);
  p.grad_logits = as_matrix(g);
  mark_written(args[7]);
  HL_RUN(categorical_backward, op, 4 * view_bytes(x), p);
}

}  // namespace

void bind_categorical(PyObject* module) {
  add_op<10, sample_checked>(module, kSample);
  add_op<7, evaluate_checked>(module, kEvaluate);
  add_op<8, backward_checked>(module, kBackward);
}

}  // namespace hotloop
