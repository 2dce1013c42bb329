#include "estimator_inputs.h"

#include <cstring>

#include "../cpu/load.h"
#include "scalar_arg.h"
#include "torch_bridge.h"
#if defined(HL_BIND_CUDA)
#include "cuda_call.h"
#endif

namespace hotloop {
namespace {

// Any true entry, read through the strides.
bool any_true(const Matrix& flags, int64_t rows, int64_t horizon) {
  const int64_t size = itemsize(flags.dtype);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < horizon; ++j) {
      uint64_t bits = 0;
      std::memcpy(&bits, flags.data + (i * flags.row_stride + j * flags.time_stride) * size,
                  static_cast<size_t>(size));
      if (is_floating(flags.dtype)) bits &= ~(uint64_t{1} << (8 * size - 1));  // -0.0 is false
      if (bits != 0) return true;
    }
  }
  return false;
}

}  // namespace

EstimatorInputs::EstimatorInputs(const char* op, bool time_major, const char* layout)
    : op_(op),
      time_major_(time_major),
      layout_(layout != nullptr ? layout
              : time_major      ? "[T, N]"
                                : "[N, T]"),
      column_layout_(layout != nullptr ? "[S]" : "[N]") {}

Matrix EstimatorInputs::column(const char* arg, PyObject* object, Kind kind) {
  const View& view = add(arg, object);
  expect_shape(op_, arg, view, {rows_}, column_layout_);
  expect_kind(arg, view, kind);
  return as_column(view);
}

void EstimatorInputs::discount(const char* arg, PyObject* object, double* scalar, Matrix* per_row) {
  if (PyFloat_CheckExact(object) || tensor_kind(object) == TensorKind::not_a_tensor) {
    *scalar = read_unit_interval(op_, arg, object);
    return;
  }
  const View& view = add(arg, object);
  expect_real(op_, arg, view);
  if (view.ndim == 0) {
#if defined(HL_BIND_CUDA)  // the same for all rows, without reading it back
    per_row->data = view.data;
    per_row->dtype = view.dtype;
    return;
#endif
    --count_;
    *scalar = read_unit_interval(op_, arg, object);
    return;
  }
  if (view.ndim != 1 || view.shape[0] != rows_) {
    value_error(op_, arg, "a number or " + std::string(column_layout_) + " = [" + std::to_string(rows_) + "]",
                describe(view));
  }
  *per_row = as_column(view);
#if defined(HL_BIND_CUDA) && !defined(HL_CUDA_HOST)
  return;  // checking each number would wait for the device
#endif
  for (int64_t row = 0; row < rows_; ++row) {
    double scratch;
    const double value = *HL_ISA_NAMESPACE::load_along_rows(*per_row, row, 0, 1, &scratch);
    if (!(value >= 0.0 && value <= 1.0)) {
      value_error(op_, (std::string(arg) + "[" + std::to_string(row) + "]").c_str(), "in [0, 1]",
                  std::to_string(value));
    }
  }
}

Matrix EstimatorInputs::output_column(const char* arg, PyObject* object, DType dtype) {
  const View& view = add(arg, object);
  expect_shape(op_, arg, view, {rows_}, column_layout_);
  add_output(arg, object, dtype);
  return as_column(view);
}

StatisticsArgs EstimatorInputs::statistics(PyObject* priorities, PyObject* summary, DType dtype) {
  StatisticsArgs args;
  if (priorities != Py_None) args.priorities = output_column("priorities", priorities, dtype);
  if (summary != Py_None) {
    const View& view = add("summary", summary);
    expect_shape(op_, "summary", view, {kSummarySize}, "[6]");
    add_output("summary", summary, DType::f64);
    if (view.stride[0] != 1) value_error(op_, "summary", "contiguous", "a strided view");
    args.summary = reinterpret_cast<double*>(view.data);
#if defined(HL_BIND_CUDA)
    partials_ = new_doubles(summary, rows_ * kSummarySize);
    args.partials = static_cast<double*>(tensor_memory(op_, partials_));
#else
    partials_.reset(new double[static_cast<size_t>(rows_ * kSummarySize)]);
    args.partials = partials_.get();
#endif
  }
  return args;
}

void EstimatorInputs::mark_outputs() const {
  for (int i = 0; i < outputs_; ++i) mark_written(written_[i]);
}

DepartureArgs read_departure(EstimatorInputs& in, const DepartureObjects& objects) {
  DepartureArgs args;
  if (objects.values != nullptr) args.values = in.matrix("values", objects.values, Kind::real);
  args.rewards = in.matrix("rewards", objects.rewards, Kind::real);
  args.terminated = in.matrix("terminated", objects.terminated, Kind::flag);
  args.last_values = in.column("last_values", objects.last_values, Kind::real);
  args.truncated = in.optional_matrix("truncated", objects.truncated, Kind::flag);
  args.truncation_values = in.optional_matrix("truncation_values", objects.truncation_values, Kind::real);
  args.valid = in.optional_matrix("valid", objects.valid, Kind::flag);
  args.baseline = args.values;
  args.rows = in.rows();
  args.horizon = in.horizon();
  args.dtype = in.dtype();
  return args;
}

void expect_truncation_values(const char* op, DepartureArgs& args) {
  if (args.truncated.data == nullptr) {
    args.truncation_values = Matrix{};
  } else if (args.truncation_values.data == nullptr) {
#if defined(HL_BIND_CUDA) && !defined(HL_CUDA_HOST)
    throw Error(PyExc_ValueError,
                std::string(op) +
                    ": truncation_values must be given with truncated on a CUDA device, got None "
                    "(whether it has true entries is not read back)");
#endif
    if (any_true(args.truncated, args.rows, args.horizon)) {
      throw Error(PyExc_ValueError,
                  std::string(op) +
                      ": truncation_values must be given when truncated has true entries, got None "
                      "(the value of each truncated episode's final observation)");
    }
    args.truncated = Matrix{};
  }
}

}  // namespace hotloop
