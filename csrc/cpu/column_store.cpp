#include "column_store.h"

#include <algorithm>
#include <cstring>

#include "parallel.h"
#include "stream.h"

namespace hotloop {
namespace {

// A tile's columns fill whole lines of a row and are read by the line: lines of one row's columns lie apart by powers
// of two, as a rule, and would drive each other out of the cache before the next row reads them.
constexpr int64_t kRows = 64, kTimes = 16;

template <int64_t kBytes>
void spread_tile(const Columns& c, int64_t first, int64_t rows, int64_t time, int64_t times) {
  alignas(64) char tile[kRows][kTimes * kBytes];
  // The policy's pass lies between: nothing of it is in the caches, and lines that are asked for at once come at once.
  for (int64_t t = 0; t < times; ++t) {
    will_read(c.from + ((time + t) * c.segments + first) * kBytes, rows * kBytes);
  }
  const bool stream = c.stream && c.time_step == kBytes;
  for (int64_t i = 0; i < rows && !stream; ++i) {
    will_write(c.to + (first + i) * c.row_step + time * c.time_step, times * kBytes);
  }
  for (int64_t t = 0; t < times; ++t) {
    const char* from = c.from + ((time + t) * c.segments + first) * kBytes;
    for (int64_t i = 0; i < rows; ++i) std::memcpy(tile[i] + t * kBytes, from + i * kBytes, kBytes);
  }
  for (int64_t i = 0; i < rows; ++i) {
    char* to = c.to + (first + i) * c.row_step + time * c.time_step;
    if (stream) {
      stream_bytes(to, tile[i], times * kBytes);
    } else if (c.time_step == kBytes) {
      std::memcpy(to, tile[i], static_cast<size_t>(times * kBytes));
    } else {
      for (int64_t t = 0; t < times; ++t) std::memcpy(to + t * c.time_step, tile[i] + t * kBytes, kBytes);
    }
  }
}

void spread_tile_of_any(const Columns& c, int64_t first, int64_t rows, int64_t time, int64_t times) {
  for (int64_t t = time; t < time + times; ++t) {
    for (int64_t i = first; i < first + rows; ++i) {
      std::memcpy(c.to + i * c.row_step + t * c.time_step, c.from + (t * c.segments + i) * c.bytes,
                  static_cast<size_t>(c.bytes));
    }
  }
}

}  // namespace

void spread_columns(const Columns& c) {
  const int64_t blocks = (c.segments + kRows - 1) / kRows;
  baseline::parallel_blocks(blocks, c.segments * c.horizon * c.bytes * 2, [&](int64_t block) {
    const int64_t first = block * kRows, rows = std::min(kRows, c.segments - first);
    for (int64_t time = 0; time < c.horizon; time += kTimes) {
      const int64_t times = std::min(kTimes, c.horizon - time);
      switch (c.bytes) {
        case 1: spread_tile<1>(c, first, rows, time, times); break;
        case 4: spread_tile<4>(c, first, rows, time, times); break;
        case 8: spread_tile<8>(c, first, rows, time, times); break;
        default: spread_tile_of_any(c, first, rows, time, times); break;
      }
    }
    if (c.stream) stream_end();
  });
}

}  // namespace hotloop
