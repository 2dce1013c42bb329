// Runs along time or along rows: what the estimators share beyond loading and storing one.
#pragma once
#include <cstring>

#include "isa_namespace.h"
#include "scan_engine.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

// What an absent input is read as; as long as the longest run, a flat one.
// constexpr: an initialiser that runs when the module is loaded would use this file's instruction set.
template <class T>
alignas(64) static constexpr T kZeros[kRows * kChunk] = {};

// The same of ones. Not std::array, whose functions the linker could merge across instruction sets.
template <class T>
struct Ones {
  T value[kRows * kChunk];
  constexpr Ones() : value() {
    for (T& each : value) each = T(1);
  }
};
template <class T>
alignas(64) static constexpr Ones<T> kOnes;

template <bool kTime, class T>
static inline const T* load_or_zeros(const Matrix& m, int64_t row, int64_t t, int64_t count, T* scratch) {
  if (m.data == nullptr) return kZeros<T>;
  return kTime ? load_along_time(m, row, t, count, scratch) : load_along_rows(m, row, t, count, scratch);
}

template <bool kTime, class T>
static inline void copy_run(const Matrix& m, int64_t row, int64_t t, int64_t count, T* to) {
  const T* from = kTime ? load_along_time(m, row, t, count, to) : load_along_rows(m, row, t, count, to);
  if (from != to) std::memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
}

// What `m` holds one step later; the column `last` (zeros where absent) after the last step.
template <bool kTime, class T>
static inline const T* load_later(const Matrix& m, const Matrix& last, int64_t horizon, int64_t row, int64_t t,
                                  int64_t count, T* scratch) {
  if (!kTime) {
    return t + 1 == horizon ? load_or_zeros<false>(last, row, 0, count, scratch)
                            : load_or_zeros<false>(m, row, t + 1, count, scratch);
  }
  if (t + count < horizon) return load_or_zeros<true>(m, row, t + 1, count, scratch);
  const T* inner = count > 1 ? load_or_zeros<true>(m, row, t + 1, count - 1, scratch) : scratch;
  if (inner != scratch) std::memcpy(scratch, inner, static_cast<size_t>(count - 1) * sizeof(T));
  T value;
  scratch[count - 1] = *load_or_zeros<false>(last, row, 0, 1, &value);
  return scratch;
}

template <bool kTime, class T>
static inline void store_run_at(const Matrix& m, int64_t row, int64_t t, int64_t count, const T* in) {
  if (kTime) {
    store_along_time(m, row, t, count, in);
  } else {
    store_along_rows(m, row, t, count, in);
  }
}

// For the gradients of what follows the last step, where there is no step.
static inline void store_zeros(const Matrix& column, int64_t rows) {
  for (int64_t row = 0; row < rows; row += kLanes) {
    store_along_rows(column, row, 0, rows - row < kLanes ? rows - row : kLanes, kZeros<float>);
  }
}

// Where neighbouring elements of `m` can be written directly, the place; else null.
template <bool kTime, class T>
static inline T* direct(const Matrix& m, int64_t row, int64_t t) {
  if (m.dtype != DTypeOf<T>::value || (kTime ? m.time_stride : m.row_stride) != 1) return nullptr;
  return row_of<T>(m, row) + t * m.time_stride;
}

// What an estimator keeps of a row (or of neighbouring rows) between chunks: one slot a row in both layouts.
template <bool kTime, class T>
static inline T* carried_of(Scratch<T>& s, int64_t row) {
  return kTime ? s.carried + row % kRows : s.carried;
}

// `y` one step later than the run, from the last step to the first: zeros after the row's last step.
template <bool kTime, class T>
static inline const T* shifted_later(int64_t row, int64_t count, bool last, const T* y, T* scratch,
                                     Scratch<T>& s) {
  T* carried = carried_of<kTime>(s, row);
  if (kTime) {
    std::memcpy(scratch, y + 1, static_cast<size_t>(count - 1) * sizeof(T));
    scratch[count - 1] = last ? T(0) : carried[0];
    carried[0] = y[0];
  } else {
    for (int64_t i = 0; i < count; ++i) scratch[i] = last ? T(0) : carried[i];
    std::memcpy(carried, y, static_cast<size_t>(count) * sizeof(T));
  }
  return scratch;
}

// `y` one step earlier than the run, from the first step to the last: zeros before the row's first step.
template <bool kTime, class T>
static inline const T* shifted_earlier(int64_t row, int64_t count, bool first, const T* y, T* scratch,
                                       Scratch<T>& s) {
  T* carried = carried_of<kTime>(s, row);
  if (kTime) {
    scratch[0] = first ? T(0) : carried[0];
    std::memcpy(scratch + 1, y, static_cast<size_t>(count - 1) * sizeof(T));
    carried[0] = y[count - 1];
  } else {
    for (int64_t i = 0; i < count; ++i) scratch[i] = first ? T(0) : carried[i];
    std::memcpy(carried, y, static_cast<size_t>(count) * sizeof(T));
  }
  return scratch;
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
