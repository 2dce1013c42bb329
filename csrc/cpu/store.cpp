#include "store.h"

#include "copy.h"

namespace hotloop {

void store(const StoreParams& p) {
  for (size_t l = 0; l < p.buffers.size(); ++l) {
    const View &buffer = p.buffers[l], &source = p.sources[l];
    const RowCopy plan = plan_row_copy(buffer, 2, source, 1);
    const int64_t size = itemsize(buffer.dtype);
    for (int64_t i = 0; i < p.count; ++i) {
      const int64_t row = p.rows[i * p.row_stride], position = p.positions[i * p.position_stride];
      copy_row(plan, buffer.data + (row * buffer.stride[0] + position * buffer.stride[1]) * size,
               source.data + i * source.stride[0] * itemsize(source.dtype));
    }
  }
}

}  // namespace hotloop
