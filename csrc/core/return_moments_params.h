#pragma once
#include "view.h"

namespace hotloop {

constexpr int64_t kMomentsBlock = 4096;  // samples, in row-major order, whose sums are made together
constexpr int64_t kMoments = 5;
constexpr int64_t kMomentsSums = 3;  // of a block: samples that count, returns, advantages

// Count of the valid samples, mean of their returns R = advantages + values and the sum of squared deviations from it,
// and the same of the advantages. Sums in float64.
struct ReturnMomentsParams {
  int64_t rows = 0;
  int64_t columns = 0;
  Matrix values, advantages;  // [B, T]
  Matrix valid;  // [B, T] or absent
  double* moments = nullptr;  // [kMoments], written
  double* partial = nullptr;  // scratch: kMomentsSums for each block of kMomentsBlock samples
};

}  // namespace hotloop
