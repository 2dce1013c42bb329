// Launches the recurrence engine for one estimator.
#pragma once
#include "launch.h"
#include "scan_exact.cuh"
#include "scan_tree.cuh"

namespace hotloop {
namespace device {

static_assert(sizeof(Segment<float, true>) == kSegmentBytes, "scratch is counted in these");

inline int packed_width(int64_t horizon) {
  int width = 1;
  while (width < horizon) width *= 2;
  return width;
}

template <Access kAccess, class E>
cudaError_t launch_tree(const E& e, ScanPath path, const Launch& launch) {
  using T = typename E::Number;
  if (path == ScanPath::warp) {
    HL_LAUNCH((scan_warp_kernel<kAccess, E>), blocks_for(e.rows, kWarpPathThreads / kWarp), kWarpPathThreads, 0,
              launch.stream, e);
    return cudaGetLastError();
  }
  if (path == ScanPath::block) {
    HL_LAUNCH((scan_block_kernel<true, kAccess, E>), blocks_for(e.rows, 1), kBlockThreads, 0, launch.stream, e,
              e.horizon, int64_t{1}, static_cast<SegmentOf<E>*>(nullptr));
    return cudaGetLastError();
  }
  const int64_t chunks = scan_chunks(e.horizon);
  auto* sums = static_cast<SegmentOf<E>*>(launch.scratch);
  if (sums == nullptr) return cudaErrorInvalidValue;
  const unsigned blocks = blocks_for(e.rows * chunks, 1);
  HL_LAUNCH((scan_block_kernel<false, kAccess, E>), blocks, kBlockThreads, 0, launch.stream, e, kChunkSteps,
            chunks, sums);
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  HL_LAUNCH((scan_carries_kernel<T, E::kCut>), blocks_for(e.rows, kCarryThreads), kCarryThreads, 0, launch.stream,
            e.rows, chunks, sums);
  error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  HL_LAUNCH((scan_block_kernel<true, kAccess, E>), blocks, kBlockThreads, 0, launch.stream, e, kChunkSteps, chunks,
            sums);
  return cudaGetLastError();
}

template <Access kAccess, class E>
cudaError_t launch_exact(const E& e, ScanPath path, const Launch& launch) {
  if (path == ScanPath::lanes) {
    constexpr Access kLanes = kAccess == Access::any ? Access::any : Access::rows;
    HL_LAUNCH((scan_lanes_kernel<kLanes, E>), blocks_for(e.rows, kLaneThreads), kLaneThreads, 0, launch.stream, e);
  } else if (path == ScanPath::packed) {
    const int width = packed_width(e.horizon);
    if (width > kWarp) return cudaErrorInvalidValue;
    HL_LAUNCH((scan_packed_kernel<kAccess, E>), blocks_for(e.rows * width, kPackedThreads), kPackedThreads, 0,
              launch.stream, e, width);
  } else {
    HL_LAUNCH((scan_tile_kernel<kAccess, E>), blocks_for(e.rows, kTileRows), kTileThreads, 0, launch.stream, e);
  }
  return cudaGetLastError();
}

// kTree: whether paths that are not exact are compiled for it, too. Gradients and float64 do without: an exact path
// serves every shape.
template <bool kTree, class E>
cudaError_t launch_scan(const E& e, bool rows_touch, const Launch& launch) {
  if (e.rows == 0 || e.horizon == 0) return cudaSuccess;
  LaunchOptions options = launch.options;
  if constexpr (kTree) {
    const ScanPath path = scan_path(e.rows, e.horizon, rows_touch, options);
    const bool plain = path == ScanPath::lanes ? can_be_read<Access::rows>(e) : can_be_read<Access::steps>(e);
    if (!is_exact(path))
      return plain ? launch_tree<Access::steps>(e, path, launch) : launch_tree<Access::any>(e, path, launch);
    return plain ? launch_exact<Access::steps>(e, path, launch) : launch_exact<Access::any>(e, path, launch);
  } else {
    options.exact = true;
    if (options.forced >= 0 && !is_exact(static_cast<ScanPath>(options.forced))) options.forced = -1;
    return launch_exact<Access::any>(e, scan_path(e.rows, e.horizon, rows_touch, options), launch);
  }
}

// Time-major where neighbouring rows touch and neighbouring steps do not.
inline bool rows_touch(const Matrix& m) { return m.row_stride == 1 && m.time_stride != 1; }

}  // namespace device
}  // namespace hotloop
