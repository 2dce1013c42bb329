#include "scatter.cuh"

#include "launch_move.cuh"
#include "launchers.h"

namespace hotloop {

int64_t scatter_scratch_bytes(const ScatterParams& p) {
  return p.targets.empty() || p.count == 0 ? 0 : p.targets[0].shape[0] * static_cast<int64_t>(sizeof(int64_t));
}

// Three launches: of rows that come twice the last must win, as on the CPU.
cudaError_t launch_scatter(const ScatterParams& p, const Launch& launch) {
  using namespace device;
  if (p.targets.empty() || p.count == 0) return cudaSuccess;
  std::vector<LeafMove> leaves;
  for (size_t l = 0; l < p.targets.size(); ++l) leaves.push_back(plan_leaf(p.targets[l], 1, p.sources[l], 1));
  RowIndices at{};
  at.to[0] = p.indices;
  at.to_stride[0] = p.index_stride;
  at.to_limit[0] = p.targets[0].shape[0];
  auto* winners = static_cast<int64_t*>(launch.scratch);
  if (winners == nullptr) return cudaErrorInvalidValue;
  const unsigned blocks = blocks_for(p.count, kMoveThreads);
  HL_LAUNCH(reset_winners_kernel, blocks, kMoveThreads, 0, launch.stream, at, p.count, winners);
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  HL_LAUNCH(claim_winners_kernel, blocks, kMoveThreads, 0, launch.stream, at, p.count, winners);
  error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  at.winners = winners;
  return launch_moves(leaves, at, p.count, launch);
}

}  // namespace hotloop
