// What the forward and the backward pass of the categorical ops share: staging logits, reading actions.
#pragma once
#include <limits>

#include "../core/categorical.h"
#include "columns.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

constexpr int64_t kRun = kChoicesARun;      // choices that are staged at once where a head has many
constexpr int64_t kSumLanes = 16;  // partial sums, the same number on every instruction set; divides kRun
static_assert(kMaxColumns == kNarrowHead, "which heads are summed along their rows decides bits");

template <class Int>
static inline void convert_choices(const char* data, int64_t stride, int64_t count, int64_t limit, int64_t* out) {
  const Int* in = reinterpret_cast<const Int*>(data);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t choice = static_cast<int64_t>(in[i * stride]);
    out[i] = choice >= 0 && choice < limit ? choice : 0;
  }
}

// Integers of any width, or 0 where one lies outside [0, limit): the boundary has refused such actions, but another
// thread may have written since.
static inline void load_choices(const Matrix& m, int64_t row, int64_t head, int64_t count, int64_t limit,
                                int64_t* out) {
  const char* data = m.data + (row * m.row_stride + head * m.time_stride) * itemsize(m.dtype);
  switch (m.dtype) {
    case DType::u8: convert_choices<uint8_t>(data, m.row_stride, count, limit, out); break;
    case DType::i8: convert_choices<int8_t>(data, m.row_stride, count, limit, out); break;
    case DType::i16: convert_choices<int16_t>(data, m.row_stride, count, limit, out); break;
    case DType::i32: convert_choices<int32_t>(data, m.row_stride, count, limit, out); break;
    default: convert_choices<int64_t>(data, m.row_stride, count, limit, out); break;
  }
}

static inline void store_choice(const Matrix& m, int64_t row, int64_t head, int64_t choice) {
  char* data = const_cast<char*>(m.data);
  const int64_t offset = row * m.row_stride + head * m.time_stride;
  if (m.dtype == DType::i32) {
    reinterpret_cast<int32_t*>(data)[offset] = static_cast<int32_t>(choice);
  } else {
    reinterpret_cast<int64_t*>(data)[offset] = choice;
  }
}

static inline bool allowed(const Matrix& mask, int64_t row, int64_t column) {
  return reinterpret_cast<const uint8_t*>(mask.data)[row * mask.row_stride + column * mask.time_stride] != 0;
}

template <class T>
static inline T one_logit(const Matrix& logits, const Matrix& mask, int64_t row, int64_t column) {
  T scratch;
  const T x = logits.dtype == DTypeOf<T>::value
                  ? reinterpret_cast<const T*>(logits.data)[row * logits.row_stride + column * logits.time_stride]
                  : *load_along_time(logits, row, column, 1, &scratch);
  return mask.data != nullptr && !allowed(mask, row, column) ? -std::numeric_limits<T>::infinity() : x;
}

// Logits of a block of rows, minus infinity where the mask forbids a choice.
template <class T>
static inline void load_logits(const Matrix& logits, const Matrix& mask, int64_t row, int64_t first, int64_t rows,
                               int64_t columns, Columns<T>& x) {
  load_columns(logits, row, first, rows, columns, x);
  if (mask.data == nullptr) return;
  alignas(64) T keep[kBlockRows];
  for (int64_t j = 0; j < columns; ++j) {
    load_along_rows(mask, row, first + j, rows, keep);  // a bool is never returned in place
    for (int64_t r = 0; r < rows; ++r) {
      x.at[j][r] = keep[r] != T(0) ? x.at[j][r] : -std::numeric_limits<T>::infinity();
    }
  }
}

// The same for a run of choices of one row; returns where they lie.
template <class T>
static inline const T* load_logits_run(const Matrix& logits, const Matrix& mask, int64_t row, int64_t first,
                                       int64_t count, T* scratch) {
  const T* x = load_along_time(logits, row, first, count, scratch);
  if (mask.data == nullptr) return x;
  alignas(64) T keep[kRun];
  load_along_time(mask, row, first, count, keep);
  for (int64_t i = 0; i < count; ++i) {
    scratch[i] = keep[i] != T(0) ? x[i] : -std::numeric_limits<T>::infinity();
  }
  return scratch;
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
