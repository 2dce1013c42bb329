// Reading and writing one element of any floating or flag dtype as the number of the arithmetic. The dtype is the same
// for all threads, so its switch does not diverge.
#pragma once
#include "device.h"
#include "../core/half.h"
#include "../core/view.h"

namespace hotloop {
namespace device {

template <class T>
HL_DEVICE T load_element(const char* data, DType dtype, int64_t at) {
  switch (dtype) {
    case DType::f32: return static_cast<T>(reinterpret_cast<const float*>(data)[at]);
    case DType::f64: return static_cast<T>(reinterpret_cast<const double*>(data)[at]);
    case DType::bf16: return static_cast<T>(to_float(reinterpret_cast<const BFloat16*>(data)[at]));
    case DType::f16: return static_cast<T>(to_float(reinterpret_cast<const Float16*>(data)[at]));
    case DType::b8: return reinterpret_cast<const uint8_t*>(data)[at] != 0 ? T(1) : T(0);
    case DType::u8: return static_cast<T>(reinterpret_cast<const uint8_t*>(data)[at]);
    default: return T(0);  // integers are refused at the boundary
  }
}

template <class T>
HL_DEVICE void store_element(char* data, DType dtype, int64_t at, T value) {
  switch (dtype) {
    case DType::f32: reinterpret_cast<float*>(data)[at] = static_cast<float>(value); break;
    case DType::f64: reinterpret_cast<double*>(data)[at] = static_cast<double>(value); break;
    case DType::bf16: reinterpret_cast<BFloat16*>(data)[at] = to_bfloat16(static_cast<float>(value)); break;
    case DType::f16: reinterpret_cast<Float16*>(data)[at] = to_float16(static_cast<float>(value)); break;
    default: break;  // refused at the boundary
  }
}

template <class T>
HL_DEVICE T load_at(const Matrix& m, int64_t row, int64_t t) {
  return load_element<T>(m.data, m.dtype, row * m.row_stride + t * m.time_stride);
}

// An absent matrix is read as `otherwise`.
template <class T>
HL_DEVICE T load_or(const Matrix& m, int64_t row, int64_t t, T otherwise) {
  return m.data != nullptr ? load_at<T>(m, row, t) : otherwise;
}

template <class T>
HL_DEVICE bool flag_or(const Matrix& m, int64_t row, int64_t t, bool otherwise) {
  return m.data != nullptr ? load_at<T>(m, row, t) != T(0) : otherwise;
}

// What `m` holds one step later; the column `last` (zero where absent) after the last step.
template <class T>
HL_DEVICE T load_later(const Matrix& m, const Matrix& last, int64_t horizon, int64_t row, int64_t t) {
  return t + 1 == horizon ? load_or<T>(last, row, 0, T(0)) : load_or<T>(m, row, t + 1, T(0));
}

template <class T>
HL_DEVICE void store_at(const Matrix& m, int64_t row, int64_t t, T value) {
  store_element<T>(const_cast<char*>(m.data), m.dtype, row * m.row_stride + t * m.time_stride, value);
}

}  // namespace device
}  // namespace hotloop
