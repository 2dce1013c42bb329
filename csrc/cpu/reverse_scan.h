#pragma once
#include "../core/view.h"
#include "isa.h"

namespace hotloop {

// y[t] = a[t] * y[t+1] + b[t], y[T] = last or 0.
struct ReverseScanParams {
  int64_t rows = 0;
  int64_t horizon = 0;
  Matrix a, b;   // [N, T]
  Matrix last;   // [N] or absent
  Matrix out;    // [N, T], written; dtype of b
};

// The gradients of the above: with l[t] = grad[t] + a[t-1] * l[t-1],
//   grad_b[t] = l[t],  grad_a[t] = l[t] * y[t+1],  grad_last = a[T-1] * l[T-1].
struct ReverseScanBackwardParams {
  int64_t rows = 0;
  int64_t horizon = 0;
  Matrix grad, a, y;  // [N, T]
  Matrix last;        // [N] or absent
  Matrix grad_a, grad_b;  // [N, T], written
  Matrix grad_last;       // [N], written
};

}  // namespace hotloop

HL_DECLARE_KERNEL_AVX2(reverse_scan, ReverseScanParams)
HL_DECLARE_KERNEL_AVX2(reverse_scan_backward, ReverseScanBackwardParams)
