#include "row_cursors.h"

namespace hotloop {

void RowCursors::reset() {
  for (int64_t agent = 0; agent < agents; ++agent) {
    rows[agent] = agent % segments;
    positions[agent] = 0;
  }
  free_idx = agents % segments;
  full_rows = 0;
}

void RowCursors::advance(int64_t start, int64_t stop) {
  for (int64_t agent = start; agent < stop; ++agent) {
    if (++positions[agent] < horizon) continue;
    positions[agent] = 0;
    rows[agent] = free_idx;
    free_idx = (free_idx + 1) % segments;
    ++full_rows;
  }
}

}  // namespace hotloop
