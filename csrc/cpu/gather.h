#pragma once
#include <vector>

#include "../core/view.h"

namespace hotloop {

// out[l][j] = sources[l][indices[j]] for every leaf l; the dtypes of a pair may differ.
struct GatherParams {
  std::vector<View> sources;
  std::vector<View> outputs;
  const int64_t* indices = nullptr;  // checked by the caller: 0 <= index < sources[l].shape[0]
  int64_t index_stride = 1;
  int64_t count = 0;
};

void gather(const GatherParams& params);

}  // namespace hotloop
