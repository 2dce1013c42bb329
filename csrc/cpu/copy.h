// Copying rows between tensors of any strides and dtypes: what gather, scatter_, store_ and last_actions share.
#pragma once
#include "../core/row_copy.h"

namespace hotloop {

void copy_row(const RowCopy& plan, char* to, const char* from);

// `count` single elements with the plan's conversion; strides in elements.
void copy_run(const RowCopy& plan, char* to, int64_t to_stride, const char* from, int64_t from_stride,
              int64_t count);

}  // namespace hotloop
