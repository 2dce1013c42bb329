// Samples of matrices in row-major order, staged in short runs, and their sums in float64 in an order that depends on
// nothing but their number.
#pragma once
#include "load.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

constexpr int64_t kRun = 128;  // samples staged at once; a block of sums is a multiple
constexpr int64_t kSumLanes = 16;  // partial sums, the same number on every instruction set; divides kRun

template <class T>
struct Run {
  alignas(64) T at[kRun];
};

// Samples first ... first + count - 1 in row-major order, whatever the strides.
template <class T>
static inline const T* load_flat(const Matrix& m, int64_t columns, int64_t first, int64_t count, Run<T>& scratch) {
  const int64_t row = first / columns, column = first % columns;
  if (column + count <= columns) return load_along_time(m, row, column, count, scratch.at);
  if (m.row_stride == columns * m.time_stride)
    return load_run(m, first * m.time_stride, m.time_stride, count, scratch.at);
  int64_t done = 0;
  for (int64_t r = row, c = column; done < count; ++r, c = 0) {
    const int64_t part = columns - c < count - done ? columns - c : count - done;
    const T* run = load_along_time(m, r, c, part, scratch.at + done);
    if (run != scratch.at + done) std::memcpy(scratch.at + done, run, static_cast<size_t>(part) * sizeof(T));
    done += part;
  }
  return scratch.at;
}

// The same of flags: 1 where one is set, else 0.
template <class T>
static inline void load_flags(const Matrix& m, int64_t columns, int64_t first, int64_t count, Run<T>& out) {
  if (m.dtype == DType::b8 && m.time_stride == 1 && m.row_stride == columns) {  // a mask as it mostly lies
    const uint8_t* in = reinterpret_cast<const uint8_t*>(m.data) + first;
    for (int64_t i = 0; i < count; ++i) out.at[i] = in[i] != 0 ? T(1) : T(0);
    return;
  }
  const T* flags = load_flat(m, columns, first, count, out);
  for (int64_t i = 0; i < count; ++i) out.at[i] = flags[i] != T(0) ? T(1) : T(0);
}

template <class T>
static inline void store_flat(const Matrix& m, int64_t columns, int64_t first, int64_t count, const T* in) {
  for (int64_t row = first / columns, column = first % columns; count > 0; ++row, column = 0) {
    const int64_t part = columns - column < count ? columns - column : count;
    store_along_time(m, row, column, part, in);
    in += part;
    count -= part;
  }
}

// Adds to 16 lanes: sample i of a block always falls into lane i % 16.
template <class T>
static inline void add_run(const T* __restrict x, int64_t count, double* __restrict lane) {
  int64_t i = 0;
  for (; i + kSumLanes <= count; i += kSumLanes) {
    for (int64_t l = 0; l < kSumLanes; ++l) lane[l] += static_cast<double>(x[i + l]);
  }
  for (; i < count; ++i) lane[i % kSumLanes] += static_cast<double>(x[i]);
}

static inline double reduce_lanes(double* lane) {
  for (int64_t width = kSumLanes / 2; width > 0; width /= 2) {
    for (int64_t l = 0; l < width; ++l) lane[l] += lane[l + width];
  }
  return lane[0];
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
