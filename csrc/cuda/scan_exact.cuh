// The paths whose additions have the order of the CPU: each row is walked step by step.
#pragma once
#include "scan.cuh"

namespace hotloop {
namespace device {

constexpr int kLaneThreads = 128, kLaneBlocks = 6;  // blocks a multiprocessor: up to 80 registers a thread

// A thread a row: coalesced where neighbouring rows are contiguous. The inputs of a step are asked for before the one
// before it is finished.
template <class E>
__global__ void __launch_bounds__(kLaneThreads, kLaneBlocks) scan_lanes_kernel(const E e) {
  using T = typename E::Number;
  const int64_t row = global_thread();
  if (row >= e.rows) return;
  T y = T(0);
  Affine<T> step = e.step(row, step_number<E>(e.horizon, 0));
  HL_ROLLED
  for (int64_t i = 0; i < e.horizon; ++i) {
    Affine<T> next{T(0), T(0)};
    if (i + 1 < e.horizon) next = e.step(row, step_number<E>(e.horizon, i + 1));
    const T before = y;
    y = follow<E::kCut>(step, before);
    e.emit(row, step_number<E>(e.horizon, i), y, before);
    step = next;
  }
}

constexpr int kPackedThreads = 128, kPackedBlocks = 8;

// `width` lanes a row, a power of two; lane i has scan step i. A result goes from lane to lane, horizon - 1 times, which
// is less than the loads take.
template <class E>
__global__ void __launch_bounds__(kPackedThreads, kPackedBlocks) scan_packed_kernel(const E e, const int width) {
  using T = typename E::Number;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int i = lane & (width - 1);
  const int64_t row = global_thread() / width;
  const bool active = row < e.rows && i < e.horizon;
  const int64_t t = step_number<E>(e.horizon, i);
  Affine<T> step{T(0), T(0)};
  if (active) step = e.step(row, t);
  T before = T(0);
  T y = follow<E::kCut>(step, before);
  const int steps = static_cast<int>(e.horizon);
  for (int k = 1; k < steps; ++k) {
    const T passed = __shfl_up_sync(kAllLanes, y, 1, width);
    if (i == k) {
      before = passed;
      y = follow<E::kCut>(step, before);
    }
  }
  if (active) e.emit(row, t, y, before);
}

constexpr int kTileThreads = 256, kTileBlocks = 4;
constexpr int kTileRows = kWarp;
constexpr int kTileSteps = 64;
constexpr int kTileStride = kTileSteps + 1;  // odd: the lanes of the walking warp hit 32 different banks

// All threads read along time and write along time; in between one warp walks the tile, a lane a row.
template <class E>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks) scan_tile_kernel(const E e) {
  using T = typename E::Number;
  HL_SHARED(T, a, kTileRows * kTileStride);
  HL_SHARED(T, b, kTileRows * kTileStride);
  HL_SHARED(T, entry, kTileRows);  // what comes into the tile from the one before
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kTileRows;
  const int thread = static_cast<int>(threadIdx.x);
  T carry = T(0);
  for (int64_t begin = 0; begin < e.horizon; begin += kTileSteps) {
    const int64_t left = e.horizon - begin;
    const int count = left < kTileSteps ? static_cast<int>(left) : kTileSteps;
    HL_UNROLL
    for (int k = thread; k < kTileRows * kTileSteps; k += kTileThreads) {
      const int r = k / kTileSteps, i = k % kTileSteps;
      if (row0 + r >= e.rows || i >= count) continue;
      const Affine<T> step = e.step(row0 + r, step_number<E>(e.horizon, begin + i));
      a[r * kTileStride + i] = step.a;
      b[r * kTileStride + i] = step.b;
    }
    __syncthreads();
    if (thread < kTileRows && row0 + thread < e.rows) {
      entry[thread] = carry;
      for (int i = 0; i < count; ++i) {
        const int at = thread * kTileStride + i;
        carry = follow<E::kCut>(Affine<T>{a[at], b[at]}, carry);
        b[at] = carry;
      }
    }
    __syncthreads();
    for (int k = thread; k < kTileRows * kTileSteps; k += kTileThreads) {
      const int r = k / kTileSteps, i = k % kTileSteps;
      if (row0 + r >= e.rows || i >= count) continue;
      const int at = r * kTileStride + i;
      const T y = b[at];
      const T before = i > 0 ? static_cast<T>(b[at - 1]) : static_cast<T>(entry[r]);
      e.emit(row0 + r, step_number<E>(e.horizon, begin + i), y, before);
    }
    __syncthreads();  // the next tile takes this one's place
  }
}

}  // namespace device
}  // namespace hotloop
