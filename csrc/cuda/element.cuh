// Reading and writing one element of any floating or flag dtype as the number of the arithmetic. The dtype is the same
// for all threads, so its switch does not diverge.
#pragma once
#include <type_traits>

#include "device.h"
#include "../core/half.h"
#include "../core/view.h"

namespace hotloop {
namespace device {

// Of an argument that is converted to the type that another one has.
template <class I>
using Same = std::common_type_t<I>;

// A Matrix with its strides in bytes: whatever the dtype, an element has one address, and a loop keeps one pointer.
struct Array {
  const char* data = nullptr;  // null where absent
  int64_t row_bytes = 0, time_bytes = 0;
  DType dtype = DType::f32;

  Array() = default;
  explicit Array(const Matrix& m)
      : data(m.data),
        row_bytes(m.row_stride * itemsize(m.dtype)),
        time_bytes(m.time_stride * itemsize(m.dtype)),
        dtype(m.dtype) {}

  HL_EITHER bool given() const { return data != nullptr; }
  // I: int64_t, or int32_t where that reaches every byte.
  template <class I>
  HL_DEVICE const char* at(I row, Same<I> t) const {
    const I offset = row * static_cast<I>(row_bytes) + t * static_cast<I>(time_bytes);
    if constexpr (sizeof(I) == 4) return data + static_cast<uint32_t>(offset);
    return data + offset;
  }
};

template <class T>
HL_DEVICE T load_element(const char* place, DType dtype) {
  switch (dtype) {
    case DType::f32: return static_cast<T>(*reinterpret_cast<const float*>(place));
    case DType::f64: return static_cast<T>(*reinterpret_cast<const double*>(place));
    case DType::bf16: return static_cast<T>(to_float(*reinterpret_cast<const BFloat16*>(place)));
    case DType::f16: return static_cast<T>(to_float(*reinterpret_cast<const Float16*>(place)));
    case DType::b8: return *reinterpret_cast<const uint8_t*>(place) != 0 ? T(1) : T(0);
    case DType::u8: return static_cast<T>(*reinterpret_cast<const uint8_t*>(place));
    default: return T(0);  // integers are refused at the boundary
  }
}

template <class T>
HL_DEVICE void store_element(char* place, DType dtype, T value) {
  switch (dtype) {
    case DType::f32: *reinterpret_cast<float*>(place) = static_cast<float>(value); break;
    case DType::f64: *reinterpret_cast<double*>(place) = static_cast<double>(value); break;
    case DType::bf16: *reinterpret_cast<BFloat16*>(place) = to_bfloat16(static_cast<float>(value)); break;
    case DType::f16: *reinterpret_cast<Float16*>(place) = to_float16(static_cast<float>(value)); break;
    default: break;  // refused at the boundary
  }
}

template <class T, class I>
HL_DEVICE T load_at(const Array& m, I row, Same<I> t) {
  return load_element<T>(m.at(row, t), m.dtype);
}

// An absent matrix is read as `otherwise`.
template <class T, class I>
HL_DEVICE T load_or(const Array& m, I row, Same<I> t, T otherwise) {
  return m.given() ? load_at<T>(m, row, t) : otherwise;
}

template <class T, class I>
HL_DEVICE bool flag_or(const Array& m, I row, Same<I> t, bool otherwise) {
  return m.given() ? load_at<T>(m, row, t) != T(0) : otherwise;
}

// What `m` holds one step later; the column `last` (zero where absent) after the last step. One load and no branch around
// it: the loads of several steps are to be on their way at once.
template <class T, class I>
HL_DEVICE T load_later(const Array& m, const Array& last, int64_t horizon, I row, Same<I> t) {
  const bool beyond = t + 1 == static_cast<I>(horizon), from_last = beyond && last.given();
  const char* const inside = m.at(row, beyond ? t : t + 1);
  const DType dtype = from_last ? last.dtype : m.dtype;
  if (!m.given() && !from_last) return T(0);
  const T found = load_element<T>(from_last ? last.at(row, 0) : inside, dtype);
  return beyond && !from_last ? T(0) : found;
}

template <class T, class I>
HL_DEVICE void store_at(const Array& m, I row, Same<I> t, T value) {
  store_element<T>(const_cast<char*>(m.at(row, t)), m.dtype, value);
}

}  // namespace device
}  // namespace hotloop
