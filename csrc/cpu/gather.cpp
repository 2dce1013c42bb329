#include "gather.h"

#include "copy.h"
#include "parallel.h"

namespace hotloop {
namespace {
constexpr int64_t kBlocks = 16;  // row blocks per leaf: enough to balance threads, few enough to stay cheap
}

void gather(const GatherParams& p) {
  const int64_t leaves = static_cast<int64_t>(p.sources.size());
  std::vector<RowCopy> plans;
  int64_t bytes = 0;
  for (int64_t l = 0; l < leaves; ++l) {
    plans.push_back(plan_row_copy(p.outputs[l], 1, p.sources[l], 1));
    bytes += 2 * view_bytes(p.outputs[l]);
  }
  // Blocks of rows outside, leaves inside: every thread gets its share of the wide leaf.
  baseline::parallel_blocks(kBlocks * leaves, bytes, [&](int64_t task) {
    const int64_t block = task / leaves, l = task % leaves;
    const View &source = p.sources[l], &output = p.outputs[l];
    const int64_t end = (block + 1) * p.count / kBlocks;
    for (int64_t j = block * p.count / kBlocks; j < end; ++j) {
      copy_row(plans[l], output.data + j * output.stride[0] * itemsize(output.dtype),
               source.data + p.indices[j * p.index_stride] * source.stride[0] * itemsize(source.dtype));
    }
  });
}

}  // namespace hotloop
