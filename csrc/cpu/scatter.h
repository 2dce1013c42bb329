#pragma once
#include <vector>

#include "../core/view.h"

namespace hotloop {

// targets[l][indices[j]] = sources[l][j] for every leaf l, in the order of j: the last duplicate wins.
struct ScatterParams {
  std::vector<View> targets;
  std::vector<View> sources;
  const int64_t* indices = nullptr;  // checked by the caller
  int64_t index_stride = 1;
  int64_t count = 0;
};

void scatter(const ScatterParams& params);

}  // namespace hotloop
