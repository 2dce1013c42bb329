#include "copy.h"

#include <cstring>

#include "convert_floats.h"
#include "load.h"

namespace hotloop {
namespace {

using namespace baseline;

template <class To>
struct Cast {
  template <class From>
  static To from(From x) {
    return static_cast<To>(baseline::convert<To>(x));
  }
  static To from(BFloat16 x) { return static_cast<To>(to_float(x)); }
  static To from(Float16 x) { return static_cast<To>(to_float(x)); }
};
template <>
struct Cast<Bool8> {
  template <class From>
  static Bool8 from(From x) {
    return Bool8{static_cast<uint8_t>(x != From(0))};
  }
  static Bool8 from(Bool8 x) { return Bool8{static_cast<uint8_t>(x.bits != 0)}; }
  static Bool8 from(BFloat16 x) { return from(to_float(x)); }
  static Bool8 from(Float16 x) { return from(to_float(x)); }
};
template <class To, class From>
void cast_run(char* to, int64_t to_stride, const char* from, int64_t from_stride, int64_t count) {
  To* out = reinterpret_cast<To*>(to);
  const From* in = reinterpret_cast<const From*>(from);
  if (to_stride == 1 && from_stride == 1) {
    for (int64_t i = 0; i < count; ++i) out[i] = Cast<To>::from(in[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i * to_stride] = Cast<To>::from(in[i * from_stride]);
  }
}

template <class To>
void cast_from(DType from_dtype, char* to, int64_t to_stride, const char* from, int64_t from_stride,
               int64_t count) {
  switch (from_dtype) {
    case DType::b8: return cast_run<To, Bool8>(to, to_stride, from, from_stride, count);
    case DType::u8: return cast_run<To, uint8_t>(to, to_stride, from, from_stride, count);
    case DType::i8: return cast_run<To, int8_t>(to, to_stride, from, from_stride, count);
    case DType::i16: return cast_run<To, int16_t>(to, to_stride, from, from_stride, count);
    case DType::i32: return cast_run<To, int32_t>(to, to_stride, from, from_stride, count);
    case DType::i64: return cast_run<To, int64_t>(to, to_stride, from, from_stride, count);
    case DType::f16: return cast_run<To, Float16>(to, to_stride, from, from_stride, count);
    case DType::bf16: return cast_run<To, BFloat16>(to, to_stride, from, from_stride, count);
    case DType::f32: return cast_run<To, float>(to, to_stride, from, from_stride, count);
    case DType::f64: return cast_run<To, double>(to, to_stride, from, from_stride, count);
  }
}

void cast(DType to_dtype, DType from_dtype, char* to, int64_t to_stride, const char* from, int64_t from_stride,
          int64_t count) {
  switch (to_dtype) {
    case DType::b8: return cast_from<Bool8>(from_dtype, to, to_stride, from, from_stride, count);
    case DType::u8: return cast_from<uint8_t>(from_dtype, to, to_stride, from, from_stride, count);
    case DType::i8: return cast_from<int8_t>(from_dtype, to, to_stride, from, from_stride, count);
    case DType::i16: return cast_from<int16_t>(from_dtype, to, to_stride, from, from_stride, count);
    case DType::i32: return cast_from<int32_t>(from_dtype, to, to_stride, from, from_stride, count);
    case DType::i64: return cast_from<int64_t>(from_dtype, to, to_stride, from, from_stride, count);
    default: return;  // floating: convert_floats
  }
}

void copy_dims(const RowCopy& plan, int dim, char* to, const char* from) {
  if (dim + 1 >= plan.ndim) {
    const bool scalar = plan.ndim == 0;
    copy_run(plan, to, scalar ? 1 : plan.to_stride[dim], from, scalar ? 1 : plan.from_stride[dim],
             scalar ? 1 : plan.shape[dim]);
    return;
  }
  for (int64_t i = 0; i < plan.shape[dim]; ++i) {
    copy_dims(plan, dim + 1, to + i * plan.to_stride[dim] * itemsize(plan.to),
              from + i * plan.from_stride[dim] * itemsize(plan.from));
  }
}

}  // namespace

void copy_run(const RowCopy& plan, char* to, int64_t to_stride, const char* from, int64_t from_stride,
              int64_t count) {
  if (!is_floating(plan.to)) return cast(plan.to, plan.from, to, to_stride, from, from_stride, count);
  ConvertFloatsParams p;
  p.to = plan.to;
  p.from = plan.from;
  p.out = to;
  p.in = from;
  p.out_stride = to_stride;
  p.in_stride = from_stride;
  p.count = count;
  p.scale = plan.scale;
  hotloop::convert_floats(p);
}

void copy_row(const RowCopy& plan, char* to, const char* from) {
  switch (plan.contiguous_bytes) {  // fixed sizes become single moves instead of calls
    case 0: return copy_dims(plan, 0, to, from);
    case 1: std::memcpy(to, from, 1); return;
    case 4: std::memcpy(to, from, 4); return;
    case 8: std::memcpy(to, from, 8); return;
    default: std::memcpy(to, from, static_cast<size_t>(plan.contiguous_bytes));
  }
}

}  // namespace hotloop
