#pragma once
#include "../core/view.h"

namespace hotloop {

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

void last_actions_read(const LastActionsReadParams& params);
void last_actions_write(const LastActionsWriteParams& params);

}  // namespace hotloop
