// Reads and checks the tensors of an estimator: matrices of one shape, columns of one entry a row, outputs that
// overlap neither an input nor each other.
#pragma once
#include <Python.h>

#include <memory>
#include <new>

#include "../core/estimator_args.h"
#include "tensor_arg.h"

namespace hotloop {

enum class Kind { real, flag };

class EstimatorInputs {
 public:
  // `letter` names the rows in messages: [N, T] or [S, T].
  EstimatorInputs(const char* op, bool time_major = false, const char* layout = nullptr);

#if defined(HL_BIND_CUDA)
  ~EstimatorInputs() { Py_XDECREF(partials_); }
  EstimatorInputs(const EstimatorInputs&) = delete;
  EstimatorInputs& operator=(const EstimatorInputs&) = delete;
#endif

  // From now on [N, T, 1] is read as [N, T].
  void drop_last_of_one() { drops_last_ = true; }

  // The first matrix read gives the shape. An absent one (None) gives a Matrix without data.
  Matrix matrix(const char* arg, PyObject* object, Kind kind);
  Matrix optional_matrix(const char* arg, PyObject* object, Kind kind) {
    return object != Py_None ? matrix(arg, object, kind) : Matrix{};
  }
  Matrix column(const char* arg, PyObject* object, Kind kind);
  Matrix optional_column(const char* arg, PyObject* object, Kind kind) {
    return object != Py_None ? column(arg, object, kind) : Matrix{};
  }
  // gamma or lambda: a number in [0, 1], or a tensor [N] of such.
  void discount(const char* arg, PyObject* object, double* scalar, Matrix* column);

  Matrix output(const char* arg, PyObject* object, DType dtype);
  Matrix output_column(const char* arg, PyObject* object, DType dtype);
  // Room for statistics that were asked for: priorities [N] and a summary, either None.
  StatisticsArgs statistics(PyObject* priorities, PyObject* summary, DType dtype);
  // Marks what was declared as an output as written. Call after the last check.
  void mark_outputs() const;

  int64_t rows() const { return rows_; }
  int64_t horizon() const { return horizon_; }
  int64_t bytes(int64_t arrays) const { return arrays * rows_ * horizon_ * itemsize(dtype_); }
  DType dtype() const { return dtype_; }  // of the first matrix
  const char* op() const { return op_; }

 private:
  static constexpr int kMax = 20;
  const View& view(int i) const { return reinterpret_cast<const View*>(storage_)[i]; }
  const View& add(const char* arg, PyObject* object);
  void expect_matrix(const char* arg, const View& view);
  void expect_kind(const char* arg, const View& view, Kind kind) const;
  void add_output(const char* arg, PyObject* object, DType dtype);

  const char* op_;
  bool time_major_, drops_last_ = false;
  const char* layout_;
  const char* column_layout_;
  int64_t rows_ = -1, horizon_ = -1;
  DType dtype_ = DType::f32;
  int count_ = 0, outputs_ = 0;
  // Views are made where they stay: copying one costs more than reading a tensor.
  alignas(View) unsigned char storage_[kMax * sizeof(View)];
  const char* names_[kMax];
  PyObject* written_[kMax];
#if defined(HL_BIND_CUDA)
  PyObject* partials_ = nullptr;  // a tensor: freed when the launch is queued
#else
  std::unique_ptr<double[]> partials_;
#endif
};

// Inline: at the sizes of a rollout step these calls are a measurable part of an op.
inline const View& EstimatorInputs::add(const char* arg, PyObject* object) {
  names_[count_] = arg;
  View& view = *new (storage_ + sizeof(View) * static_cast<size_t>(count_++)) View(read_tensor(op_, arg, object));
  if (drops_last_ && view.ndim == 3 && view.shape[2] == 1) view.ndim = 2;
  return view;
}

inline void EstimatorInputs::expect_matrix(const char* arg, const View& view) {
  if (rows_ >= 0) {
    return expect_shape(op_, arg, view, {time_major_ ? horizon_ : rows_, time_major_ ? rows_ : horizon_}, layout_);
  }
  expect_ndim(op_, arg, view, 2, layout_);
  rows_ = view.shape[time_major_ ? 1 : 0];
  horizon_ = view.shape[time_major_ ? 0 : 1];
  dtype_ = view.dtype;
}

inline void EstimatorInputs::expect_kind(const char* arg, const View& view, Kind kind) const {
  if (kind == Kind::flag) {
    expect_flag(op_, arg, view);
  } else {
    expect_real(op_, arg, view);
  }
}

inline Matrix EstimatorInputs::matrix(const char* arg, PyObject* object, Kind kind) {
  const View& view = add(arg, object);
  expect_matrix(arg, view);
  expect_kind(arg, view, kind);
  return as_matrix(view, time_major_);
}

inline void EstimatorInputs::add_output(const char* arg, PyObject* object, DType dtype) {
  const View& view = this->view(count_ - 1);
  expect_dtype(op_, arg, view, dtype);
  expect_no_self_overlap(op_, arg, view);
  for (int i = 0; i + 1 < count_; ++i) expect_disjoint(op_, arg, view, names_[i], this->view(i));
  written_[outputs_++] = object;
}

inline Matrix EstimatorInputs::output(const char* arg, PyObject* object, DType dtype) {
  const View& view = add(arg, object);
  expect_matrix(arg, view);
  add_output(arg, object, dtype);
  return as_matrix(view, time_major_);
}

// args: rewards, terminated, truncated, last_values, truncation_values, valid as departure-indexed ops take them;
// `values` is read first where it gives the shape and the dtype, and may be null.
struct DepartureObjects {
  PyObject *rewards, *values, *terminated, *truncated, *last_values, *truncation_values, *valid;
};
DepartureArgs read_departure(EstimatorInputs& in, const DepartureObjects& objects);
// ValueError where truncated has true entries and no truncation_values are given; else forgets such a truncated.
void expect_truncation_values(const char* op, DepartureArgs& args);

}  // namespace hotloop
