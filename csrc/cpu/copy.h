// Copying rows between tensors of any strides and dtypes: what gather, scatter_, store_ and last_actions share.
#pragma once
#include "../core/view.h"

namespace hotloop {

// How to copy one row (the dimensions after the indexed ones), worked out once per leaf.
struct RowCopy {
  DType to = DType::f32, from = DType::f32;
  int ndim = 0;  // after merging neighbouring dimensions that both sides walk in one stride
  int64_t shape[kMaxDims] = {};
  int64_t to_stride[kMaxDims] = {}, from_stride[kMaxDims] = {};
  int64_t contiguous_bytes = 0;  // non-zero where the whole row is one memcpy
  double scale = 1.0;            // multiplies what is written to a floating dtype
};

// `to_skip` and `from_skip`: leading dimensions that are indexed and not part of a row. The row shapes are equal.
RowCopy plan_row_copy(const View& to, int to_skip, const View& from, int from_skip, double scale = 1.0);

void copy_row(const RowCopy& plan, char* to, const char* from);

// `count` single elements with the plan's conversion; strides in elements.
void copy_run(const RowCopy& plan, char* to, int64_t to_stride, const char* from, int64_t from_stride,
              int64_t count);

}  // namespace hotloop
