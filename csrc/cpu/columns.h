// A block of rows of a matrix as columns, so that rows are the vector lanes of what is computed from them.
#pragma once
#include "load.h"
#include "vectors.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

constexpr int64_t kBlockRows = 64;    // rows of a block
constexpr int64_t kMaxColumns = 32;   // columns that a block may have: 8 KiB of floats

template <class T>
struct Columns {
  alignas(64) T at[kMaxColumns][kBlockRows];
};

using F32x4 = Vector<float, 4>;

static inline void transpose4(F32x4 a0, F32x4 a1, F32x4 a2, F32x4 a3, F32x4* out) {
  const F32x4 t0 = zip_low(a0, a1), t1 = zip_low(a2, a3);
  const F32x4 t2 = zip_high(a0, a1), t3 = zip_high(a2, a3);
  out[0] = join_low(t0, t1);
  out[1] = join_high(t0, t1);
  out[2] = join_low(t2, t3);
  out[3] = join_high(t2, t3);
}

// The tiles of 4 x 4 that fit; returns the number of columns that are done (for all rows up to a multiple of 4).
static inline int64_t split_tiles(const float* in, int64_t stride, int64_t rows, int64_t columns,
                                  Columns<float>& out) {
  const int64_t whole = columns / 4 * 4;
  for (int64_t j = 0; j < whole; j += 4) {
    for (int64_t r = 0; r + 4 <= rows; r += 4) {
      F32x4 tile[4];
      const float* at = in + r * stride + j;
      transpose4(load_lanes<F32x4>(at), load_lanes<F32x4>(at + stride), load_lanes<F32x4>(at + 2 * stride),
                 load_lanes<F32x4>(at + 3 * stride), tile);
      for (int64_t c = 0; c < 4; ++c) std::memcpy(&out.at[j + c][r], &tile[c], sizeof tile[c]);
    }
  }
  return whole;
}
static inline int64_t split_tiles(const double*, int64_t, int64_t, int64_t, Columns<double>&) { return 0; }

static inline int64_t join_tiles(const Columns<float>& in, int64_t rows, int64_t columns, float* out,
                                 int64_t stride) {
  const int64_t whole = columns / 4 * 4;
  for (int64_t j = 0; j < whole; j += 4) {
    for (int64_t r = 0; r + 4 <= rows; r += 4) {
      F32x4 tile[4];
      transpose4(load_lanes<F32x4>(&in.at[j][r]), load_lanes<F32x4>(&in.at[j + 1][r]),
                 load_lanes<F32x4>(&in.at[j + 2][r]), load_lanes<F32x4>(&in.at[j + 3][r]), tile);
      for (int64_t c = 0; c < 4; ++c) std::memcpy(out + (r + c) * stride + j, &tile[c], sizeof tile[c]);
    }
  }
  return whole;
}
static inline int64_t join_tiles(const Columns<double>&, int64_t, int64_t, double*, int64_t) { return 0; }

template <int kWidth, class T>
static inline void split_packed(const T* __restrict in, int64_t rows, Columns<T>& out) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < kWidth; ++j) out.at[j][r] = in[r * kWidth + j];
  }
}

// Columns first ... first + columns - 1 of `rows` rows from `row` on, converted to T. Rows that a full vector would
// read beyond them become copies of zero.
template <class T>
static inline void load_columns(const Matrix& m, int64_t row, int64_t first, int64_t rows, int64_t columns,
                                Columns<T>& out) {
  if (m.dtype == DTypeOf<T>::value && m.time_stride == 1) {
    const T* in = reinterpret_cast<const T*>(m.data) + row * m.row_stride + first;
    if (columns == 2 && m.row_stride == 2) {
      split_packed<2>(in, rows, out);
    } else if (columns == 3 && m.row_stride == 3) {
      split_packed<3>(in, rows, out);
    } else {
      const int64_t done = split_tiles(in, m.row_stride, rows, columns, out);
      const int64_t tiled = rows / 4 * 4;
      for (int64_t j = 0; j < columns; ++j) {
        for (int64_t r = j < done ? tiled : 0; r < rows; ++r) out.at[j][r] = in[r * m.row_stride + j];
      }
    }
  } else {
    for (int64_t j = 0; j < columns; ++j) {
      const T* run = load_along_rows(m, row, first + j, rows, out.at[j]);
      if (run != out.at[j]) std::memcpy(out.at[j], run, static_cast<size_t>(rows) * sizeof(T));
    }
  }
}

template <int kWidth, class T>
static inline void join_packed(const Columns<T>& in, int64_t rows, T* __restrict out) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < kWidth; ++j) out[r * kWidth + j] = in.at[j][r];
  }
}

template <class T>
static inline void store_columns(const Matrix& m, int64_t row, int64_t first, int64_t rows, int64_t columns,
                                 const Columns<T>& in) {
  if (m.dtype == DTypeOf<T>::value && m.time_stride == 1) {
    T* out = reinterpret_cast<T*>(const_cast<char*>(m.data)) + row * m.row_stride + first;
    if (columns == 2 && m.row_stride == 2) {
      join_packed<2>(in, rows, out);
    } else if (columns == 3 && m.row_stride == 3) {
      join_packed<3>(in, rows, out);
    } else {
      const int64_t done = join_tiles(in, rows, columns, out, m.row_stride);
      const int64_t tiled = rows / 4 * 4;
      for (int64_t j = 0; j < columns; ++j) {
        for (int64_t r = j < done ? tiled : 0; r < rows; ++r) out[r * m.row_stride + j] = in.at[j][r];
      }
    }
  } else {
    for (int64_t j = 0; j < columns; ++j) store_along_rows(m, row, first + j, rows, in.at[j]);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
