// The paths that compose steps in a tree: for few rows or long ones, where a thread a row would leave the device idle.
#pragma once
#include "plain.cuh"
#include "scan.cuh"
#include "scan_plan.h"

namespace hotloop {
namespace device {

constexpr int kTreeItems = 4;  // runs of 32 steps a warp, so that 4 loads of each input are in flight
constexpr int kTreeSpan = kTreeItems * kWarp;

// The steps begin + 32 k + lane of a row, for the k of one warp.
template <class E, class I>
HL_DEVICE void load_segments(const E& e, I row, I begin, I end, int lane, SegmentOf<E>* s) {
  HL_UNROLL
  for (int k = 0; k < kTreeItems; ++k) {
    // Beyond the end the last is read again, and left out: a branch would keep the loads apart.
    const I i = begin + k * kWarp + lane;
    const auto step = e.step(row, step_number<E>(e.horizon, i < end ? i : end - 1));
    s[k] = i < end ? SegmentOf<E>{step.a, step.b} : nothing_done<E>();
  }
}

// Blocks that are to fit on a multiprocessor: a third of the threads that it holds, with 80 registers each. Left alone,
// ptxas aims at all threads with 32 registers, and spills.
constexpr int kWarpPathThreads = 128, kWarpPathBlocks = 6;

template <Access kAccess, class E>
__global__ void __launch_bounds__(kWarpPathThreads, kWarpPathBlocks) scan_warp_kernel(const E given) {
  using T = typename E::Number;
  using I = Index<kAccess>;
  const E e = as_read<kAccess>(given);
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  if (global_thread() / kWarp >= e.rows) return;  // the whole warp
  const I row = static_cast<I>(global_thread() / kWarp), horizon = static_cast<I>(e.horizon);
  T carry = T(0);
  for (I begin = 0; begin < horizon; begin += kTreeSpan) {
    SegmentOf<E> s[kTreeItems];
    load_segments(e, row, begin, horizon, lane, s);
    HL_UNROLL
    for (int k = 0; k < kTreeItems; ++k) {
      const I i = begin + k * kWarp + lane;
      const T y = apply(scan_warp(s[k], lane), carry);
      const T up = __shfl_up_sync(kAllLanes, y, 1);
      if (i < horizon) e.emit(row, step_number<E>(e.horizon, i), y, lane > 0 ? up : carry);
      carry = __shfl_sync(kAllLanes, y, kWarp - 1);
    }
  }
}

constexpr int kBlockThreads = 256, kBlockBlocks = 2;
constexpr int kBlockWarps = kBlockThreads / kWarp;
constexpr int kBlockSpan = kBlockWarps * kTreeSpan;

// One block a chunk of a row. Without `sums` the carry into the chunk is 0 and it is the whole row. kEmit: writes
// results, with the carry that `sums` holds; otherwise leaves the chunk as one step there.
template <bool kEmit, Access kAccess, class E>
__global__ void __launch_bounds__(kBlockThreads, kBlockBlocks)
    scan_block_kernel(const E given, const int64_t chunk_steps, const int64_t chunks, SegmentOf<E>* sums) {
  using T = typename E::Number;
  using I = Index<kAccess>;
  const E e = as_read<kAccess>(given);
  HL_SHARED(SegmentOf<E>, of_warp, kBlockWarps);
  const int lane = static_cast<int>(threadIdx.x % kWarp), warp = static_cast<int>(threadIdx.x / kWarp);
  const I row = static_cast<I>(blockIdx.x / chunks), chunk = static_cast<I>(blockIdx.x % chunks);
  const I first = chunk * static_cast<I>(chunk_steps), left = static_cast<I>(e.horizon) - first;
  const I end = first + (chunk_steps < left ? static_cast<I>(chunk_steps) : left);
  T carry = kEmit && sums != nullptr ? sums[blockIdx.x].b : T(0);
  SegmentOf<E> all = nothing_done<E>();
  for (I begin = first; begin < end; begin += kBlockSpan) {
    SegmentOf<E> s[kTreeItems];
    const I mine = begin + warp * kTreeSpan;
    load_segments(e, row, mine, end, lane, s);
    SegmentOf<E> run = nothing_done<E>();
    HL_UNROLL
    for (int k = 0; k < kTreeItems; ++k) {
      s[k] = compose(scan_warp(s[k], lane), run);
      run = shuffle_from(s[k], kWarp - 1);
    }
    if (lane == 0) of_warp[warp] = run;
    __syncthreads();
    SegmentOf<E> earlier = nothing_done<E>(), total = nothing_done<E>();
    for (int w = 0; w < kBlockWarps; ++w) {
      if (w == warp) earlier = total;
      total = compose(static_cast<SegmentOf<E>>(of_warp[w]), total);
    }
    __syncthreads();  // the next span takes this one's place
    if (kEmit) {
      T before = apply(earlier, carry);
      HL_UNROLL
      for (int k = 0; k < kTreeItems; ++k) {
        const I i = mine + k * kWarp + lane;
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
template <class T, bool kCut>
__global__ void __launch_bounds__(kCarryThreads)
    scan_carries_kernel(const int64_t rows, const int64_t chunks, Segment<T, kCut>* sums) {
  const int64_t row = global_thread();
  if (row >= rows) return;
  T carry = T(0);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    Segment<T, kCut>& sum = sums[row * chunks + chunk];
    const T next = apply(sum, carry);
    sum.b = carry;
    carry = next;
  }
}

}  // namespace device
}  // namespace hotloop
