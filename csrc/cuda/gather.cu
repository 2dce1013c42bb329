#include "launch_move.cuh"
#include "launchers.h"

namespace hotloop {

cudaError_t launch_gather(const GatherParams& p, const Launch& launch) {
  using namespace device;
  if (p.sources.empty() || p.count == 0) return cudaSuccess;
  std::vector<LeafMove> leaves;
  for (size_t l = 0; l < p.sources.size(); ++l) leaves.push_back(plan_leaf(p.outputs[l], 1, p.sources[l], 1));
  RowIndices at{};
  at.from = p.indices;
  at.from_stride = p.index_stride;
  at.from_limit = p.sources[0].shape[0];
  return launch_moves(leaves, at, p.count, launch);
}

}  // namespace hotloop
