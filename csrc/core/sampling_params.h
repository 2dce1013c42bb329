// What sample_segments is asked to do, and the constants of its laws.
#pragma once
#include "view.h"

namespace hotloop {

// keeps a segment of priority 0 reachable (PufferLib's and Metta's constant)
constexpr double kPriorityFloor = 1e-6;
constexpr int64_t kSumBlock = 8;  // elements of one partial sum

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

}  // namespace hotloop
