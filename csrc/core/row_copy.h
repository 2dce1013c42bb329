// How a row of one tensor becomes a row of another: what all ops that move rows work out once for each leaf.
#pragma once
#include "view.h"

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
static inline RowCopy plan_row_copy(const View& to, int to_skip, const View& from, int from_skip,
                                    double scale = 1.0) {
  RowCopy plan;
  plan.scale = scale;
  plan.to = to.dtype;
  plan.from = from.dtype;
  for (int i = 0; i + to_skip < to.ndim; ++i) {
    const int64_t size = to.shape[i + to_skip];
    if (size == 1) continue;
    const int64_t to_stride = to.stride[i + to_skip], from_stride = from.stride[i + from_skip];
    const int last = plan.ndim - 1;
    if (last >= 0 && plan.to_stride[last] == to_stride * size && plan.from_stride[last] == from_stride * size) {
      plan.shape[last] *= size;
      plan.to_stride[last] = to_stride;
      plan.from_stride[last] = from_stride;
    } else {
      plan.shape[plan.ndim] = size;
      plan.to_stride[plan.ndim] = to_stride;
      plan.from_stride[plan.ndim] = from_stride;
      ++plan.ndim;
    }
  }
  if (plan.to == plan.from && scale == 1.0) {
    if (plan.ndim == 0) plan.contiguous_bytes = itemsize(plan.to);
    if (plan.ndim == 1 && plan.to_stride[0] == 1 && plan.from_stride[0] == 1) {
      plan.contiguous_bytes = plan.shape[0] * itemsize(plan.to);
    }
  }
  return plan;
}

}  // namespace hotloop
