// What a kernel sees of a tensor: a pointer, a dtype, sizes and strides in elements. No ownership.
#pragma once
#include <cstdint>

#include "dtype.h"

namespace hotloop {

constexpr int kMaxDims = 8;

struct View {
  char* data = nullptr;
  DType dtype = DType::f32;
  int ndim = 0;
  int64_t
      shape[kMaxDims];  // the first `ndim` entries hold; zeroing the rest would cost more than reading a tensor
  int64_t stride[kMaxDims];
};

static inline int64_t view_numel(const View& view) {
  int64_t count = 1;
  for (int i = 0; i < view.ndim; ++i) count *= view.shape[i];
  return count;
}

static inline int64_t view_bytes(const View& view) { return view_numel(view) * itemsize(view.dtype); }

// One matrix argument of an estimator, [rows, time]; an absent one has a null pointer.
struct Matrix {
  const char* data = nullptr;
  DType dtype = DType::f32;
  int64_t row_stride = 0;
  int64_t time_stride = 0;
};

static inline Matrix as_matrix(const View& view, bool time_major = false) {
  Matrix m;
  m.data = view.data;
  m.dtype = view.dtype;
  m.row_stride = view.stride[time_major ? 1 : 0];
  m.time_stride = view.stride[time_major ? 0 : 1];
  return m;
}

// A vector argument over rows, [rows]: a matrix whose time axis has no extent.
static inline Matrix as_column(const View& view) {
  Matrix m;
  m.data = view.data;
  m.dtype = view.dtype;
  m.row_stride = view.stride[0];
  return m;
}

}  // namespace hotloop
