// The recurrence engine: y[t] = a[t] * y[t+1] + b[t] from the last step to the first, for any estimator, and
// y[t] = a[t] * y[t-1] + b[t] from the first to the last, for the gradients of those.
//
// An estimator is a struct with
//   stage_time(row, t, count, a, b, scratch)   coefficients of `count` steps of one row
//   stage_rows(row, t, count, a, b, scratch)   coefficients of one step of `count` neighbouring rows
//   emit_time / emit_rows(row, t, count, y, scratch)   what to do with the result
//   flat(), stage_flat(row, rows, a, b), emit_flat   the same for whole short rows that lie end to end in memory
//                                                    (from the last step to the first only)
//   flat_result(row)   where emit_flat would copy y to, or null: y may be there already
//
// Two layouts, one order of operations (so both give the same bits, whatever the number of threads):
// * batch-major: the coefficients of kRows rows are computed chunk by chunk into a tile that stays in L1, each row
//   read in one contiguous stream (rows a power of two apart would evict each other if they were read side by
//   side); then kRows independent chains run over the tile, which hides the latency of the recurrence.
//   Short rows that lie end to end are staged as one long run, so that no loop ends in a remainder for each row.
// * time-major: rows are the vector lanes and nothing needs transposing.
#pragma once
#include <cstring>

#include "isa_namespace.h"
#include "load.h"
#include "parallel.h"
#include "scan_tile.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

constexpr int64_t kChunk = 128;  // steps per tile: 2 tiles of 16 x 128 floats are 16 KiB, half of L1
constexpr int64_t kStride = kChunk + 16;  // keeps the rows of a tile in different L1 sets
constexpr int64_t kLanes = 256;  // rows per block in the time-major layout
constexpr int64_t kScratchRuns = 12;

template <class T>
struct Scratch {
  alignas(64) T run[kScratchRuns][kLanes];
  alignas(64) T carried[kLanes];  // the estimator's own, kept from one chunk or step of a block to the next
};

// By the bits of the exponent: a comparison of floats would not be vectorised.
static inline bool all_finite(const float* x, int64_t count) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    bad |= (bits & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
  }
  return bad == 0;
}
static inline bool all_finite(const double* x, int64_t count) {
  uint64_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint64_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    bad |= (bits & 0x7ff0000000000000u) == 0x7ff0000000000000u ? 1u : 0u;
  }
  return bad == 0;
}

// Stages and scans one tile. A cut costs a select in every step, and compilers make a branch of it, which random
// ends of episodes mispredict: so the plain formula runs first. Where its results are finite nothing has leaked
// (0 * y is 0), and only where they are not the tile is staged again and scanned with cuts.
template <bool kCut, bool kForwards, class T, class Stage>
static inline void stage_and_scan(const T* a, const T* b, T* y, int64_t stride, int64_t count, T* carry,
                                  const Stage& stage) {
  T before[kRows];
  for (int64_t r = 0; r < kRows; ++r) before[r] = carry[r];
  stage();
  scan_tile<false, kForwards>(a, b, y, stride, count, carry);
  if (!kCut) return;
  bool finite = true;
  if (stride == count) {
    finite = all_finite(y, kRows * count);
  } else {
    for (int64_t r = 0; r < kRows; ++r) finite = finite && all_finite(y + r * stride, count);
  }
  if (finite) return;
  stage();
  // The rows that are not there hold results of the first scan: zeros, as they were.
  for (int64_t r = 0; r < kRows; ++r) carry[r] = before[r];
  scan_tile<true, kForwards>(a, b, y, stride, count, carry);
}

template <class T>
static inline T* row_of(const Matrix& m, int64_t row) {
  return reinterpret_cast<T*>(const_cast<char*>(m.data)) + row * m.row_stride;
}

// For emit_flat: `y` is copied from the tile, or lies where it belongs.
template <class T>
static inline void put_flat(const Matrix& m, int64_t row, int64_t count, const T* y) {
  T* place = row_of<T>(m, row);
  if (place != y) std::memcpy(place, y, static_cast<size_t>(count) * sizeof(T));
}

template <bool kCut, class T, class Estimator>
static inline void scan_row_block(const Estimator& estimator, int64_t row0, int64_t rows, int64_t horizon) {
  alignas(64) T a[kRows * kStride];
  alignas(64) T b[kRows * kStride];
  T carry[kRows] = {};
  if (horizon <= kChunk && estimator.flat()) {
    for (int64_t i = rows * horizon; i < kRows * horizon; ++i) a[i] = b[i] = T(0);  // rows that are not there
    // A block of all rows is written where it belongs at once.
    T* result = rows == kRows ? estimator.flat_result(row0) : nullptr;
    T* y = result != nullptr ? result : b;
    stage_and_scan<kCut, false>(a, b, y, horizon, horizon, carry, [&] { estimator.stage_flat(row0, rows, a, b); });
    estimator.emit_flat(row0, rows, y, a);
    return;
  }
  Scratch<T> scratch;
  for (int64_t i = rows * kStride; i < kRows * kStride; ++i) a[i] = b[i] = T(0);  // rows that are not there
  for (int64_t end = horizon; end > 0; end -= kChunk) {
    const int64_t begin = end > kChunk ? end - kChunk : 0;
    const int64_t count = end - begin;
    stage_and_scan<kCut, false>(a, b, b, kStride, count, carry, [&] {
      for (int64_t r = 0; r < rows; ++r) {
        estimator.stage_time(row0 + r, begin, count, a + r * kStride, b + r * kStride, scratch);
      }
    });
    for (int64_t r = 0; r < rows; ++r) estimator.emit_time(row0 + r, begin, count, b + r * kStride, scratch);
  }
}

template <bool kCut, class T, class Estimator>
static inline void scan_lane_block(const Estimator& estimator, int64_t row0, int64_t rows, int64_t horizon) {
  alignas(64) T a[kLanes];
  alignas(64) T b[kLanes];
  alignas(64) T y[kLanes] = {};
  Scratch<T> scratch;
  for (int64_t t = horizon - 1; t >= 0; --t) {
    estimator.stage_rows(row0, t, rows, a, b, scratch);
    for (int64_t i = 0; i < rows; ++i) y[i] = affine<kCut>(a[i], y[i], b[i]);
    estimator.emit_rows(row0, t, rows, y, scratch);
  }
}

template <bool kCut, class T, class Estimator>
static inline void scan_row_block_forwards(const Estimator& estimator, int64_t row0, int64_t rows,
                                           int64_t horizon) {
  alignas(64) T a[kRows * kStride];
  alignas(64) T b[kRows * kStride];
  T carry[kRows] = {};
  Scratch<T> scratch;
  for (int64_t i = rows * kStride; i < kRows * kStride; ++i) a[i] = b[i] = T(0);  // rows that are not there
  for (int64_t begin = 0; begin < horizon; begin += kChunk) {
    const int64_t count = horizon - begin < kChunk ? horizon - begin : kChunk;
    stage_and_scan<kCut, true>(a, b, b, kStride, count, carry, [&] {
      for (int64_t r = 0; r < rows; ++r) {
        estimator.stage_time(row0 + r, begin, count, a + r * kStride, b + r * kStride, scratch);
      }
    });
    for (int64_t r = 0; r < rows; ++r) estimator.emit_time(row0 + r, begin, count, b + r * kStride, scratch);
  }
}

template <bool kCut, class T, class Estimator>
static inline void scan_lane_block_forwards(const Estimator& estimator, int64_t row0, int64_t rows,
                                            int64_t horizon) {
  alignas(64) T a[kLanes];
  alignas(64) T b[kLanes];
  alignas(64) T y[kLanes] = {};
  Scratch<T> scratch;
  for (int64_t t = 0; t < horizon; ++t) {
    estimator.stage_rows(row0, t, rows, a, b, scratch);
    for (int64_t i = 0; i < rows; ++i) y[i] = affine<kCut>(a[i], y[i], b[i]);
    estimator.emit_rows(row0, t, rows, y, scratch);
  }
}

// `lanes`: whether neighbouring rows are contiguous in memory. `bytes`: what the op moves, for the grain.
template <bool kCut, class T, class Estimator>
static inline void scan_from_last(const Estimator& estimator, int64_t rows, int64_t horizon, bool lanes,
                                  int64_t bytes) {
  if (horizon == 0) return;  // a last step is taken for granted below
  const int64_t width = lanes ? kLanes : kRows;
  parallel_blocks((rows + width - 1) / width, bytes, [&](int64_t block) {
    const int64_t row0 = block * width;
    const int64_t count = rows - row0 < width ? rows - row0 : width;
    if (lanes) {
      scan_lane_block<kCut, T>(estimator, row0, count, horizon);
    } else {
      scan_row_block<kCut, T>(estimator, row0, count, horizon);
    }
  });
}

template <bool kCut, class T, class Estimator>
static inline void scan_from_first(const Estimator& estimator, int64_t rows, int64_t horizon, bool lanes,
                                   int64_t bytes) {
  if (horizon == 0) return;  // a last step is taken for granted below
  const int64_t width = lanes ? kLanes : kRows;
  parallel_blocks((rows + width - 1) / width, bytes, [&](int64_t block) {
    const int64_t row0 = block * width;
    const int64_t count = rows - row0 < width ? rows - row0 : width;
    if (lanes) {
      scan_lane_block_forwards<kCut, T>(estimator, row0, count, horizon);
    } else {
      scan_row_block_forwards<kCut, T>(estimator, row0, count, horizon);
    }
  });
}

// Whether rows of dtype T lie end to end, each contiguous.
template <class T>
static inline bool end_to_end(const Matrix& m, int64_t horizon) {
  return m.dtype == DTypeOf<T>::value && m.row_stride == horizon && m.time_stride == 1;
}

// Time-major when neighbouring rows touch and neighbouring steps do not.
static inline bool rows_are_lanes(const Matrix& values) {
  return values.row_stride == 1 && values.time_stride != 1;
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
