// Numbers of agents that were collected time by time, into the rows of a buffer.
#pragma once
#include <cstdint>

namespace hotloop {

struct Columns {
  const char* from = nullptr;  // [T, S], entries of `bytes` bytes without gaps
  char* to = nullptr;          // [S, T], entries as long
  int64_t segments = 0, horizon = 0, bytes = 0;
  int64_t row_step = 0, time_step = 0;  // of `to`, in bytes
  bool stream = false;                  // past the cache
};

void spread_columns(const Columns& columns);

}  // namespace hotloop
