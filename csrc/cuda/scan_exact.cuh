// The paths whose additions have the order of the CPU: each row is walked step by step.
#pragma once
#include "plain.cuh"
#include "scan.cuh"

namespace hotloop {
namespace device {

constexpr int kLaneThreads = 128, kLaneBlocks = 6;  // blocks a multiprocessor: up to 80 registers a thread

// A thread a row: coalesced where neighbouring rows are contiguous. The inputs of a step are asked for before the one
// before it is finished.
template <Access kAccess, class E>
__global__ void __launch_bounds__(kLaneThreads, kLaneBlocks) scan_lanes_kernel(const E given) {
  using T = typename E::Number;
  using I = Index<kAccess>;
  const E e = as_read<kAccess>(given);
  if (global_thread() >= e.rows) return;
  const I row = static_cast<I>(global_thread()), horizon = static_cast<I>(e.horizon);
  T y = T(0);
  Affine<T> step = e.step(row, step_number<E>(e.horizon, I(0)));
  HL_ROLLED
  for (I i = 0; i < horizon; ++i) {
    Affine<T> next{T(0), T(0)};
    if (i + 1 < horizon) next = e.step(row, step_number<E>(e.horizon, i + 1));
    const T before = y;
    y = follow<E::kCut>(step, before);
    e.emit(row, step_number<E>(e.horizon, i), y, before);
    step = next;
  }
}

constexpr int kPackedThreads = 128, kPackedBlocks = 8;

// `width` lanes a row, a power of two; lane i has scan step i. A result goes from lane to lane, horizon - 1 times, which
// is less than the loads take.
template <Access kAccess, class E>
__global__ void __launch_bounds__(kPackedThreads, kPackedBlocks)
    scan_packed_kernel(const E given, const int width) {
  using T = typename E::Number;
  using I = Index<kAccess>;
  const E e = as_read<kAccess>(given);
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int i = lane & (width - 1);
  const bool active = global_thread() / width < e.rows && i < e.horizon;
  const I row = static_cast<I>(global_thread() / width), t = step_number<E>(e.horizon, static_cast<I>(i));
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

constexpr int kTileRows = kWarp;
constexpr int kTileSteps = 32;
constexpr int kTileStride = kTileSteps + 1;  // odd: the lanes of the walking warp hit 32 different banks
constexpr int kTileSize = kTileRows * kTileStride;
constexpr int kTileMovers = 256;  // threads that read and write
constexpr int kTileThreads = kTileMovers + kWarp, kTileBlocks = 2;
constexpr int kWalkAtOnce = 8;

// What of a tile a mover has in its turn `j`: neighbouring threads have neighbouring steps.
struct TilePlace {
  int row, step;
  HL_DEVICE TilePlace(int thread, int j)
      : row((thread + j * kTileMovers) / kTileSteps), step((thread + j * kTileMovers) % kTileSteps) {}
  HL_DEVICE int at() const { return row * kTileStride + step; }
};
constexpr int kTileTurns = kTileRows * kTileSteps / kTileMovers;

// The steps of a row in a tile, one after the other. Results take the place of b.
template <class E, class A>
HL_DEVICE typename E::Number walk_row(A& a, A& b, int from, int count, typename E::Number y) {
  using T = typename E::Number;
  int i = 0;
  for (; i + kWalkAtOnce <= count; i += kWalkAtOnce) {  // read first: a store between them would hold reads up
    Affine<T> steps[kWalkAtOnce];
    HL_UNROLL
    for (int k = 0; k < kWalkAtOnce; ++k) steps[k] = {a[from + i + k], b[from + i + k]};
    HL_UNROLL
    for (int k = 0; k < kWalkAtOnce; ++k) {
      y = follow<E::kCut>(steps[k], y);
      b[from + i + k] = y;
    }
  }
  for (; i < count; ++i) {
    y = follow<E::kCut>(Affine<T>{a[from + i], b[from + i]}, y);
    b[from + i] = y;
  }
  return y;
}

// The step that a mover has in its turn `j` of the tile that begins at `begin`. Beyond the edges the last is read again, and
// nobody asks for it: a branch would keep the loads apart.
template <class E, class I>
HL_DEVICE Affine<typename E::Number> tile_step(const E& e, I row0, int rows, I begin, int thread, int j) {
  const TilePlace p(thread, j);
  const I last = static_cast<I>(e.horizon) - 1, i = begin + p.step < last ? begin + p.step : last;
  return e.step(row0 + (p.row < rows ? p.row : rows - 1), step_number<E>(e.horizon, i));
}

// A block has 32 rows, tile after tile along time. In turn n one warp, a lane a row, walks tile n, while the others write
// tile n - 1 and read tile n + 1, which then takes its place. Behind switches no load goes ahead of another, and held
// steps would only take registers: such tiles are read when their place is free.
template <Access kAccess, class E>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks) scan_tile_kernel(const E given) {
  using T = typename E::Number;
  using I = Index<kAccess>;
  constexpr bool kAhead = kAccess != Access::any;
  const E e = as_read<kAccess>(given);
  HL_SHARED(T, a, 2 * kTileSize);
  HL_SHARED(T, b, 2 * kTileSize);
  HL_SHARED(T, entry, 2 * kTileRows);  // what comes into a tile from the one before
  const I row0 = static_cast<I>(blockIdx.x) * kTileRows, horizon = static_cast<I>(e.horizon);
  const int rows = e.rows - row0 < kTileRows ? static_cast<int>(e.rows - row0) : kTileRows;
  const I tiles = (horizon + kTileSteps - 1) / kTileSteps;
  const int thread = static_cast<int>(threadIdx.x);
  const bool moves = thread < kTileMovers;
  T carry = T(0);
  for (I n = -1; n <= tiles; ++n) {
    const int here = static_cast<int>(n & 1), there = 1 - here;
    const I next = (n + 1) * kTileSteps;
    Affine<T> steps[kTileTurns];
    if (kAhead && moves && n + 1 < tiles) {
      HL_UNROLL
      for (int j = 0; j < kTileTurns; ++j) steps[j] = tile_step(e, row0, rows, next, thread, j);
    }
    if (moves && n >= 1) {
      const I begin = (n - 1) * kTileSteps;
      HL_UNROLL
      for (int j = 0; j < kTileTurns; ++j) {
        const TilePlace p(thread, j);
        if (p.row >= rows || begin + p.step >= horizon) continue;
        const int at = there * kTileSize + p.at();
        const T before = p.step > 0 ? static_cast<T>(b[at - 1]) : static_cast<T>(entry[there * kTileRows + p.row]);
        e.emit(row0 + p.row, step_number<E>(e.horizon, begin + p.step), b[at], before);
      }
    }
    if (!moves && thread - kTileMovers < rows && n >= 0 && n < tiles) {
      const int row = thread - kTileMovers;
      const I left = horizon - n * kTileSteps;
      entry[here * kTileRows + row] = carry;
      carry = walk_row<E>(a, b, here * kTileSize + row * kTileStride,
                          left < kTileSteps ? static_cast<int>(left) : kTileSteps, carry);
    }
    __syncthreads();  // tile n - 1 is written
    if (moves && n + 1 < tiles) {
      const auto put = [&](int j, const Affine<T>& step) {
        const int at = there * kTileSize + TilePlace(thread, j).at();
        a[at] = step.a;
        b[at] = step.b;
      };
      if constexpr (kAhead) {
        HL_UNROLL
        for (int j = 0; j < kTileTurns; ++j) put(j, steps[j]);
      } else {
        HL_ROLLED
        for (int j = 0; j < kTileTurns; ++j) put(j, tile_step(e, row0, rows, next, thread, j));
      }
    }
    __syncthreads();  // tile n + 1 is there
  }
}

}  // namespace device
}  // namespace hotloop
