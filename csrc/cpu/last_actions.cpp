#include "last_actions.h"

#include "copy.h"
#include "load.h"

namespace hotloop {

void last_actions_read(const LastActionsReadParams& p) {
  const RowCopy plan = plan_row_copy(p.out, 1, p.last, 1);
  const Matrix dones = p.dones.ndim ? as_column(p.dones) : Matrix{};
  // One zero read with stride 0 fills a whole row.
  alignas(8) const char zero[8] = {};
  RowCopy clear = plan;
  clear.from = p.out.dtype;
  clear.contiguous_bytes = 0;
  for (int i = 0; i < kMaxDims; ++i) clear.from_stride[i] = 0;
  for (int64_t i = 0; i < p.out.shape[0]; ++i) {
    char* to = p.out.data + i * p.out.stride[0] * itemsize(p.out.dtype);
    float scratch = 0;
    if (dones.data && *baseline::load_along_rows(dones, i, 0, 1, &scratch) != 0.0f) {
      copy_row(clear, to, zero);
    } else {
      copy_row(plan, to, p.last.data + (p.start + i) * p.last.stride[0] * itemsize(p.last.dtype));
    }
  }
}

void last_actions_write(const LastActionsWriteParams& p) {
  const RowCopy plan = plan_row_copy(p.last, 1, p.actions, 1);
  for (int64_t i = 0; i < p.actions.shape[0]; ++i) {
    copy_row(plan, p.last.data + (p.start + i) * p.last.stride[0] * itemsize(p.last.dtype),
             p.actions.data + i * p.actions.stride[0] * itemsize(p.actions.dtype));
  }
}

}  // namespace hotloop
