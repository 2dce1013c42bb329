#include "scatter.h"

#include "copy.h"

namespace hotloop {

// Serial on purpose: with duplicate indices the result must not depend on the number of threads.
void scatter(const ScatterParams& p) {
  for (size_t l = 0; l < p.targets.size(); ++l) {
    const View &target = p.targets[l], &source = p.sources[l];
    const RowCopy plan = plan_row_copy(target, 1, source, 1);
    for (int64_t j = 0; j < p.count; ++j) {
      copy_row(plan, target.data + p.indices[j * p.index_stride] * target.stride[0] * itemsize(target.dtype),
               source.data + j * source.stride[0] * itemsize(source.dtype));
    }
  }
}

}  // namespace hotloop
