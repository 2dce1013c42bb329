// Reading and writing a run of elements of any dtype and stride as contiguous float or double.
#pragma once
#include "isa_namespace.h"
#include "../core/half.h"
#include "../core/view.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};

template <class To>
static inline To convert(Bool8 x) {
  return x.bits ? To(1) : To(0);
}
template <class To>
static inline To convert(BFloat16 x) {
  return static_cast<To>(to_float(x));
}
template <class To>
static inline To convert(Float16 x) {
  return static_cast<To>(to_float(x));
}
template <class To, class From>
static inline To convert(From x) {
  return static_cast<To>(x);
}

template <class From, class To>
static inline void convert_run(const char* data, int64_t stride, int64_t count, To* out) {
  const From* in = reinterpret_cast<const From*>(data);
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) out[i] = convert<To>(in[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = convert<To>(in[i * stride]);
  }
}

template <class To>
HL_NOINLINE static void load_converted(DType dtype, const char* data, int64_t stride, int64_t count, To* scratch) {
  switch (dtype) {
    case DType::b8: convert_run<Bool8>(data, stride, count, scratch); break;
    case DType::u8: convert_run<uint8_t>(data, stride, count, scratch); break;
    case DType::f16: convert_run<Float16>(data, stride, count, scratch); break;
    case DType::bf16: convert_run<BFloat16>(data, stride, count, scratch); break;
    case DType::f32: convert_run<float>(data, stride, count, scratch); break;
    case DType::f64: convert_run<double>(data, stride, count, scratch); break;
    default: break;  // integers are refused at the boundary
  }
}

// A run of `count` elements from (row, t) along time or along rows. Contiguous runs of the right dtype are
// returned where they lie; everything else is converted into `scratch`.
template <class To>
static inline const To* load_run(const Matrix& m, int64_t offset, int64_t stride, int64_t count, To* scratch) {
  const char* data = m.data + offset * itemsize(m.dtype);
  if (m.dtype == DTypeOf<To>::value && stride == 1) return reinterpret_cast<const To*>(data);
  load_converted(m.dtype, data, stride, count, scratch);
  return scratch;
}

template <class To>
static inline const To* load_along_time(const Matrix& m, int64_t row, int64_t t, int64_t count, To* scratch) {
  return load_run(m, row * m.row_stride + t * m.time_stride, m.time_stride, count, scratch);
}

template <class To>
static inline const To* load_along_rows(const Matrix& m, int64_t row, int64_t t, int64_t count, To* scratch) {
  return load_run(m, row * m.row_stride + t * m.time_stride, m.row_stride, count, scratch);
}

static inline void narrow(double x, float* out) { *out = static_cast<float>(x); }
static inline void narrow(double x, double* out) { *out = x; }
static inline void narrow(float x, float* out) { *out = x; }
static inline void narrow(float x, double* out) { *out = static_cast<double>(x); }
template <class From>
static inline void narrow(From x, BFloat16* out) {
  *out = to_bfloat16(static_cast<float>(x));
}
template <class From>
static inline void narrow(From x, Float16* out) {
  *out = to_float16(static_cast<float>(x));
}

template <class To, class From>
static inline void narrow_run(const From* __restrict in, int64_t stride, int64_t count, char* data) {
  To* __restrict out = reinterpret_cast<To*>(data);
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) narrow(in[i], &out[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) narrow(in[i], &out[i * stride]);
  }
}

template <class From>
HL_NOINLINE static void store_run(const Matrix& m, int64_t offset, int64_t stride, int64_t count, const From* in) {
  char* data = const_cast<char*>(m.data) + offset * itemsize(m.dtype);
  switch (m.dtype) {
    case DType::f32: narrow_run<float>(in, stride, count, data); break;
    case DType::f64: narrow_run<double>(in, stride, count, data); break;
    case DType::bf16: narrow_run<BFloat16>(in, stride, count, data); break;
    case DType::f16: narrow_run<Float16>(in, stride, count, data); break;
    default: break;  // refused at the boundary
  }
}

template <class From>
static inline void store_along_time(const Matrix& m, int64_t row, int64_t t, int64_t count, const From* in) {
  const int64_t offset = row * m.row_stride + t * m.time_stride;
  if (m.dtype == DTypeOf<From>::value && m.time_stride == 1) {
    std::memcpy(const_cast<char*>(m.data) + offset * itemsize(m.dtype), in, count * sizeof(From));
  } else {
    store_run(m, offset, m.time_stride, count, in);
  }
}

template <class From>
static inline void store_along_rows(const Matrix& m, int64_t row, int64_t t, int64_t count, const From* in) {
  const int64_t offset = row * m.row_stride + t * m.time_stride;
  if (m.dtype == DTypeOf<From>::value && m.row_stride == 1) {
    std::memcpy(const_cast<char*>(m.data) + offset * itemsize(m.dtype), in, count * sizeof(From));
  } else {
    store_run(m, offset, m.row_stride, count, in);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
