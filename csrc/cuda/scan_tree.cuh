// The paths that compose steps in a tree: for few rows or long ones, where a thread a row would leave the device idle.
#pragma once
#include "scan.cuh"
#include "scan_plan.h"

namespace hotloop {
namespace device {

constexpr int kTreeItems = 4;  // runs of 32 steps a warp, so that 4 loads of each input are in flight
constexpr int kTreeSpan = kTreeItems * kWarp;

// The steps begin + 32 k + lane of a row, for the k of one warp.
template <class E>
HL_DEVICE void load_segments(const E& e, int64_t row, int64_t begin, int64_t end, int lane,
                             Segment<typename E::Number>* s) {
  HL_UNROLL
  for (int k = 0; k < kTreeItems; ++k) {
    const int64_t i = begin + k * kWarp + lane;
    s[k] = nothing_done<typename E::Number>();
    if (i < end) s[k] = segment_of<E>(e.step(row, step_number<E>(e.horizon, i)));
  }
}

// Blocks that are to fit on a multiprocessor: a third of the threads that it holds, with 80 registers each. Left alone,
// ptxas aims at all threads with 32 registers, and spills.
constexpr int kWarpPathThreads = 128, kWarpPathBlocks = 6;

template <class E>
__global__ void __launch_bounds__(kWarpPathThreads, kWarpPathBlocks) scan_warp_kernel(const E e) {
  using T = typename E::Number;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t row = global_thread() / kWarp;
  if (row >= e.rows) return;  // the whole warp
  T carry = T(0);
  for (int64_t begin = 0; begin < e.horizon; begin += kTreeSpan) {
    Segment<T> s[kTreeItems];
    load_segments(e, row, begin, e.horizon, lane, s);
    HL_UNROLL
    for (int k = 0; k < kTreeItems; ++k) {
      const int64_t i = begin + k * kWarp + lane;
      const T y = apply(scan_warp(s[k], lane), carry);
      const T up = __shfl_up_sync(kAllLanes, y, 1);
      if (i < e.horizon) e.emit(row, step_number<E>(e.horizon, i), y, lane > 0 ? up : carry);
      carry = __shfl_sync(kAllLanes, y, kWarp - 1);
    }
  }
}

constexpr int kBlockThreads = 256, kBlockBlocks = 2;
constexpr int kBlockWarps = kBlockThreads / kWarp;
constexpr int kBlockSpan = kBlockWarps * kTreeSpan;

// One block a chunk of a row. Without `sums` the carry into the chunk is 0 and it is the whole row. kEmit: writes
// results, with the carry that `sums` holds; otherwise leaves the chunk as one step there.
template <bool kEmit, class E>
__global__ void __launch_bounds__(kBlockThreads, kBlockBlocks)
    scan_block_kernel(const E e, const int64_t chunk_steps, const int64_t chunks,
                      Segment<typename E::Number>* sums) {
  using T = typename E::Number;
  HL_SHARED(Segment<T>, of_warp, kBlockWarps);
  const int lane = static_cast<int>(threadIdx.x % kWarp), warp = static_cast<int>(threadIdx.x / kWarp);
  const int64_t row = static_cast<int64_t>(blockIdx.x) / chunks, chunk = static_cast<int64_t>(blockIdx.x) % chunks;
  const int64_t first = chunk * chunk_steps;
  const int64_t end = first + chunk_steps < e.horizon ? first + chunk_steps : e.horizon;
  T carry = kEmit && sums != nullptr ? sums[blockIdx.x].b : T(0);
  Segment<T> all = nothing_done<T>();
  for (int64_t begin = first; begin < end; begin += kBlockSpan) {
    Segment<T> s[kTreeItems];
    const int64_t mine = begin + warp * kTreeSpan;
    load_segments(e, row, mine, end, lane, s);
    Segment<T> run = nothing_done<T>();
    HL_UNROLL
    for (int k = 0; k < kTreeItems; ++k) {
      s[k] = compose(scan_warp(s[k], lane), run);
      run = shuffle_from(s[k], kWarp - 1);
    }
    if (lane == 0) of_warp[warp] = run;
    __syncthreads();
    Segment<T> earlier = nothing_done<T>(), total = nothing_done<T>();
    for (int w = 0; w < kBlockWarps; ++w) {
      if (w == warp) earlier = total;
      total = compose(static_cast<Segment<T>>(of_warp[w]), total);
    }
    __syncthreads();  // the next span takes this one's place
    if (kEmit) {
      T before = apply(earlier, carry);
      HL_UNROLL
      for (int k = 0; k < kTreeItems; ++k) {
        const int64_t i = mine + k * kWarp + lane;
        const T y = apply(s[k], apply(earlier, carry));
        const T up = __shfl_up_sync(kAllLanes, y, 1);
        if (i < end) e.emit(row, step_number<E>(e.horizon, i), y, lane > 0 ? up : before);
        before = __shfl_sync(kAllLanes, y, kWarp - 1);
      }
      carry = apply(total, carry);
    } else {
      all = compose(total, all);
    }
  }
  if (!kEmit && threadIdx.x == 0) sums[blockIdx.x] = all;
}

constexpr int kCarryThreads = 128;

// A thread a row: turns each chunk's sum into the carry that comes into it.
template <class T>
__global__ void __launch_bounds__(kCarryThreads)
    scan_carries_kernel(const int64_t rows, const int64_t chunks, Segment<T>* sums) {
  const int64_t row = global_thread();
  if (row >= rows) return;
  T carry = T(0);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    Segment<T>& sum = sums[row * chunks + chunk];
    const T next = apply(sum, carry);
    sum.b = carry;
    carry = next;
  }
}

}  // namespace device
}  // namespace hotloop
