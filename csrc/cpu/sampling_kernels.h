// The vectorised parts of sample_segments, each on a run of elements: the caller deals runs out to threads.
#pragma once
#include "../core/philox.h"
#include "../core/sampling_params.h"
#include "isa.h"

namespace hotloop {

constexpr int64_t kSamplingRun = 4096;   // elements that one call of a kernel should get

// random_bits64(key, first ... first + count - 1); `first` is even.
struct RandomRunParams {
  RandomKey key;
  uint64_t first = 0;
  int64_t count = 0;
  uint64_t* out = nullptr;
};

// Arrival times of the exponential race of segments first ... first + count - 1: -log(uniform) / (priority + floor).
struct RaceTimesParams {
  RandomKey key;
  Matrix priorities;  // [S]
  int64_t first = 0;  // even
  int64_t count = 0;
  double* out = nullptr;  // [count]
};

// sums[b] = sum, in order, of w = priority + floor over the b-th kSumBlock elements from `first` on, leaving out
// those with w * scale >= 1; `capped` counts these.
struct BlockSumsParams {
  Matrix priorities;  // [S]
  int64_t first = 0;
  int64_t count = 0;
  double floor = kPriorityFloor;
  double scale = 0;
  double* sums = nullptr;  // [ceil(count / kSumBlock)]
  int64_t* capped = nullptr;
};

// weights[j] = x[j] ** -beta
struct PowerWeightsParams {
  const double* x = nullptr;  // [count], > 0; there must be room for a multiple of 4 elements
  int64_t count = 0;
  double beta = 1;
  float* weights = nullptr;  // [count], the same
};

}  // namespace hotloop

HL_DECLARE_KERNEL(random_run, RandomRunParams)
HL_DECLARE_KERNEL(race_times, RaceTimesParams)
HL_DECLARE_KERNEL(block_sums, BlockSumsParams)
HL_DECLARE_KERNEL(power_weights, PowerWeightsParams)
