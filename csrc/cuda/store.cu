#include "launch_move.cuh"
#include "launchers.h"

namespace hotloop {

// Two agents of one place would race; no rollout has any.
cudaError_t launch_store(const StoreParams& p, const Launch& launch) {
  using namespace device;
  if (p.buffers.empty() || p.count == 0) return cudaSuccess;
  std::vector<LeafMove> leaves;
  for (size_t l = 0; l < p.buffers.size(); ++l) leaves.push_back(plan_leaf(p.buffers[l], 2, p.sources[l], 1));
  RowIndices at{};
  at.to[0] = p.rows;
  at.to[1] = p.positions;
  at.to_stride[0] = p.row_stride;
  at.to_stride[1] = p.position_stride;
  at.to_limit[0] = p.buffers[0].shape[0];
  at.to_limit[1] = p.buffers[0].shape[1];
  return launch_moves(leaves, at, p.count, launch);
}

}  // namespace hotloop
