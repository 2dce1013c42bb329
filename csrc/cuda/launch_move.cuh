// Works out how the rows of each leaf are moved, and launches it.
#pragma once
#include <cstdint>
#include <vector>

#include "launch.h"
#include "move.cuh"

namespace hotloop {
namespace device {

// The widest unit that divides a row and that every row of both sides is aligned to.
inline int widest_unit(const LeafMove& leaf, int64_t row_bytes) {
  const auto bits = reinterpret_cast<uintptr_t>(leaf.to) | reinterpret_cast<uintptr_t>(leaf.from) |
                    static_cast<uintptr_t>(leaf.to_step[0]) | static_cast<uintptr_t>(leaf.to_step[1]) |
                    static_cast<uintptr_t>(leaf.from_step) | static_cast<uintptr_t>(row_bytes);
  int unit = 16;
  while (unit > 1 && (bits & static_cast<uintptr_t>(unit - 1)) != 0) unit /= 2;
  return unit;
}

// Rows are what follows the first `to_skip` and `from_skip` dimensions, which the indices count.
inline LeafMove plan_leaf(const View& to, int to_skip, const View& from, int from_skip) {
  LeafMove leaf{};
  leaf.row = plan_row_copy(to, to_skip, from, from_skip);
  leaf.to = to.data;
  leaf.from = from.data;
  for (int i = 0; i < to_skip; ++i) leaf.to_step[i] = to.stride[i] * itemsize(to.dtype);
  leaf.from_step = from.stride[0] * itemsize(from.dtype);
  if (leaf.row.contiguous_bytes != 0) {
    leaf.unit_bytes = widest_unit(leaf, leaf.row.contiguous_bytes);
    leaf.units = leaf.row.contiguous_bytes / leaf.unit_bytes;
    return leaf;
  }
  leaf.units = 1;
  for (int dim = 0; dim < leaf.row.ndim; ++dim) {
    leaf.units *= leaf.row.shape[dim];
    leaf.row.to_stride[dim] *= itemsize(to.dtype);
    leaf.row.from_stride[dim] *= itemsize(from.dtype);
  }
  return leaf;
}

inline cudaError_t launch_moves(const std::vector<LeafMove>& all, const RowIndices& at, int64_t count,
                                const Launch& launch) {
  MoveArgs args{};
  args.count = count;
  args.at = at;
  unsigned leaves = 0;
  int64_t most = 0;
  for (size_t l = 0; l < all.size(); ++l) {
    if (count * all[l].units > 0) {
      args.leaves[leaves++] = all[l];
      most = all[l].units > most ? all[l].units : most;
    }
    if (leaves == 0 || (leaves < kLeavesALaunch && l + 1 < all.size())) continue;
    const int64_t wanted = (count * most + kMoveThreads - 1) / kMoveThreads;
    const dim3 grid(static_cast<unsigned>(wanted < kMoveBlocks ? wanted : kMoveBlocks), leaves);
    HL_LAUNCH(move_rows_kernel, grid, kMoveThreads, 0, launch.stream, args);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
    leaves = 0;
    most = 0;
  }
  return cudaSuccess;
}

}  // namespace device
}  // namespace hotloop
