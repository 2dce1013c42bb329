#pragma once
#include "../core/sampling_params.h"

namespace hotloop {

void sample_segments(const SampleSegmentsParams& params);

}  // namespace hotloop
