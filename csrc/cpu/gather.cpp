#include "gather.h"

#include "move.h"

namespace hotloop {

void gather(const GatherParams& p) {
  std::vector<RowMove> moves;
  moves.reserve(p.sources.size());
  int64_t bytes = 0;
  for (size_t l = 0; l < p.sources.size(); ++l) {
    moves.push_back(plan_move(p.outputs[l], 1, p.sources[l], 1));
    bytes += 2 * view_bytes(p.outputs[l]);
  }
  if (p.index_stride == 1) return move_rows(moves, nullptr, p.indices, p.count, bytes);
  std::vector<int64_t> indices(static_cast<size_t>(p.count));
  for (int64_t j = 0; j < p.count; ++j) indices[static_cast<size_t>(j)] = p.indices[j * p.index_stride];
  move_rows(moves, nullptr, indices.data(), p.count, bytes);
}

}  // namespace hotloop
