// What the ops that move rows are asked to do: the boundary into their kernels, on every device.
#pragma once
#include <vector>

#include "view.h"

namespace hotloop {

// out[l][j] = sources[l][indices[j]] for every leaf l; the dtypes of a pair may differ.
struct GatherParams {
  std::vector<View> sources;
  std::vector<View> outputs;
  const int64_t* indices = nullptr;  // checked by the caller: 0 <= index < sources[l].shape[0]
  int64_t index_stride = 1;
  int64_t count = 0;
};

// targets[l][indices[j]] = sources[l][j] for every leaf l, in the order of j: the last duplicate wins.
struct ScatterParams {
  std::vector<View> targets;
  std::vector<View> sources;
  const int64_t* indices = nullptr;  // checked by the caller
  int64_t index_stride = 1;
  int64_t count = 0;
};

// buffers[l][rows[i], positions[i]] = sources[l][i] for every leaf l and agent i.
struct StoreParams {
  std::vector<View> buffers;  // [S, T, ...]
  std::vector<View> sources;  // [n, ...]
  const int64_t* rows = nullptr;       // checked by the caller
  const int64_t* positions = nullptr;  // checked by the caller
  int64_t row_stride = 1, position_stride = 1;
  int64_t count = 0;
};

// out[i] = last[start + i], or zeros where dones[i] is true. last [A, k], out [n, k].
struct LastActionsReadParams {
  View last, out;
  View dones;  // [n]; ndim 0 where absent
  int64_t start = 0;
};

// last[start + i] = actions[i], cast to the dtype of `last`. actions [n, k].
struct LastActionsWriteParams {
  View last, actions;
  int64_t start = 0;
};

}  // namespace hotloop
