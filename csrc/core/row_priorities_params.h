#pragma once
#include "view.h"

namespace hotloop {

// priorities[i] = (sum_t |A[i, t]|) ** alpha; 0 where the sum or the power is not finite.
struct RowPrioritiesParams {
  int64_t rows = 0;
  int64_t horizon = 0;
  Matrix advantages;   // [S, T]
  Matrix priorities;   // [S], written; dtype of advantages
  double alpha = 1;
};

}  // namespace hotloop
