#pragma once
#include <vector>

#include "../core/view.h"

namespace hotloop {

// buffers[l][rows[i], positions[i]] = sources[l][i] for every leaf l and agent i.
struct StoreParams {
  std::vector<View> buffers;  // [S, T, ...]
  std::vector<View> sources;  // [n, ...]
  const int64_t* rows = nullptr;       // checked by the caller
  const int64_t* positions = nullptr;  // checked by the caller
  int64_t row_stride = 1, position_stride = 1;
  int64_t count = 0;
};

void store(const StoreParams& params);

}  // namespace hotloop
