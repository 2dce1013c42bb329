#pragma once
#include "view.h"

namespace hotloop {

// out[i, t] = exp(clamp(new_log_prob[i, t] - old_log_prob[i, t], -10, 10)); `invalid` where not valid[i, t].
struct ImportanceRatioParams {
  int64_t rows = 0;
  int64_t columns = 0;
  Matrix new_log_prob, old_log_prob;  // [B, T]
  Matrix valid;                       // [B, T] or absent
  Matrix out;                         // [B, T], written; arithmetic is in its dtype, float32 or float64
  double invalid = 1;
};

}  // namespace hotloop
