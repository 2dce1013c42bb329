#pragma once
#include "../core/view.h"

namespace hotloop {

enum class SamplingLaw { sequential, permutation, successive, with_replacement, systematic };

struct SampleSegmentsParams {
  SamplingLaw law = SamplingLaw::sequential;
  int64_t segments = 0;
  int64_t count = 0;
  Matrix
      priorities;  // [S] for the laws that draw by priority; finite, >= 0, of a finite sum, checked by the caller
  uint64_t seed = 0;
  uint32_t epoch = 0;
  int64_t minibatch = 0;
  double beta = 1;
  Matrix indices;  // [k] int64, written
  Matrix weights;  // [k] float32, written
};

void sample_segments(const SampleSegmentsParams& params);

}  // namespace hotloop
