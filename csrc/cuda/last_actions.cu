#include "last_actions.cuh"

#include "launch_move.cuh"
#include "launchers.h"

namespace hotloop {

cudaError_t launch_last_actions_read(const LastActionsReadParams& p, const Launch& launch) {
  using namespace device;
  const int64_t count = p.out.shape[0];
  if (count == 0) return cudaSuccess;
  View from = p.last;
  from.data += p.start * from.stride[0] * itemsize(from.dtype);
  const cudaError_t error = launch_moves({plan_leaf(p.out, 1, from, 1)}, RowIndices{}, count, launch);
  if (error != cudaSuccess || p.dones.ndim == 0) return error;
  View shape = p.out;  // its elements one by one: a row is cleared whatever its layout
  LeafMove clear{};
  clear.row = plan_row_copy(shape, 1, shape, 1);
  clear.to = p.out.data;
  clear.to_step[0] = p.out.stride[0] * itemsize(p.out.dtype);
  clear.units = 1;
  for (int dim = 0; dim < clear.row.ndim; ++dim) {
    clear.units *= clear.row.shape[dim];
    clear.row.to_stride[dim] *= itemsize(p.out.dtype);
  }
  if (clear.units == 0) return cudaSuccess;
  HL_LAUNCH(clear_rows_kernel, blocks_for(count * clear.units, kMoveThreads), kMoveThreads, 0, launch.stream,
            clear, Array(as_column(p.dones)), count);
  return cudaGetLastError();
}

cudaError_t launch_last_actions_write(const LastActionsWriteParams& p, const Launch& launch) {
  using namespace device;
  if (p.actions.shape[0] == 0) return cudaSuccess;
  View to = p.last;
  to.data += p.start * to.stride[0] * itemsize(to.dtype);
  return launch_moves({plan_leaf(to, 1, p.actions, 1)}, RowIndices{}, p.actions.shape[0], launch);
}

}  // namespace hotloop
