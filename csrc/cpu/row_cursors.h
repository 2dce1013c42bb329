// Which row and position of the buffer each agent writes next.
#pragma once
#include <cstdint>

namespace hotloop {

struct RowCursors {
  int64_t* rows = nullptr;       // [A], owned by the caller
  int64_t* positions = nullptr;  // [A], owned by the caller
  int64_t agents = 0, segments = 0, horizon = 0;
  int64_t free_idx = 0;   // the next row that no agent writes to
  int64_t full_rows = 0;  // rows finished in this rollout

  void reset();
  // Agents [start, stop) have written one step; whoever finished its row gets the next free one.
  void advance(int64_t start, int64_t stop);
};

}  // namespace hotloop
