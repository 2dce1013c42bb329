#include "clip_grad_norm.h"

#include "load.h"
#include "parallel.h"
#include "vectors.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

constexpr int64_t kPiece = 512;  // elements that are converted at a time
constexpr int64_t kGroups = 4;   // vectors of sums side by side, to hide an addition's latency
constexpr int64_t kLanes = 4;
constexpr int64_t kSums = kGroups * kLanes;  // partial sums, the same number on every instruction set: same bits

using F64x4 = Vector<double, 4>;

inline void load_doubles(const float* at, F64x4* to) { widen(load_lanes<Vector<float, 4>>(at), to); }
inline void load_doubles(const double* at, F64x4* to) { std::memcpy(to, at, sizeof *to); }

// Element i belongs to sum i % kSums; pieces start at multiples of it.
template <class T>
void add_squares(const T* x, int64_t count, F64x4* sums) {
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    for (int64_t g = 0; g < kGroups; ++g) {
      F64x4 v;
      load_doubles(x + i + g * kLanes, &v);
      sums[g] += v * v;
    }
  }
  for (; i < count; ++i) {
    const double v = static_cast<double>(x[i]);
    sums[i % kSums / kLanes][i % kLanes] += v * v;
  }
}

Matrix as_row(const GradientRun& run) {
  Matrix m;
  m.data = run.at.data[0];
  m.dtype = run.dtype;
  m.time_stride = run.at.stride[0];
  return m;
}

template <class T>
double square_sum(const GradientRun& run) {
  alignas(64) T scratch[kPiece];
  const Matrix row = as_row(run);
  F64x4 sums[kGroups] = {};
  for (int64_t start = 0; start < run.at.count; start += kPiece) {
    const int64_t count = run.at.count - start < kPiece ? run.at.count - start : kPiece;
    add_squares(load_along_time(row, 0, start, count, scratch), count, sums);
  }
  const F64x4 four = (sums[0] + sums[2]) + (sums[1] + sums[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

template <class T>
void scale(const GradientRun& run, T factor) {
  if (run.dtype == DTypeOf<T>::value && run.at.stride[0] == 1) {
    T* x = reinterpret_cast<T*>(run.at.data[0]);
    for (int64_t i = 0; i < run.at.count; ++i) x[i] *= factor;
    return;
  }
  alignas(64) T scratch[kPiece];
  const Matrix row = as_row(run);
  for (int64_t start = 0; start < run.at.count; start += kPiece) {
    const int64_t count = run.at.count - start < kPiece ? run.at.count - start : kPiece;
    const T* from = load_along_time(row, 0, start, count, scratch);
    for (int64_t i = 0; i < count; ++i) scratch[i] = from[i] * factor;
    store_along_time(row, 0, start, count, scratch);
  }
}

}  // namespace

void square_sums(const SquareSumsParams& p) {
  parallel_blocks(p.count, p.bytes, [&](int64_t i) {
    p.sums[i] = p.runs[i].dtype == DType::f64 ? square_sum<double>(p.runs[i]) : square_sum<float>(p.runs[i]);
  });
}

void scale_runs(const ScaleRunsParams& p) {
  parallel_blocks(p.count, p.bytes, [&](int64_t i) {
    if (p.runs[i].dtype == DType::f64) {
      scale(p.runs[i], p.factor);
    } else {
      scale(p.runs[i], static_cast<float>(p.factor));
    }
  });
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
