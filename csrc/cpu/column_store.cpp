#include "column_store.h"

#include <algorithm>
#include <cstring>

#include "parallel.h"

namespace hotloop {
namespace {

// A tile's columns fill whole lines of a row, and its lines fit into the first level of the cache.
constexpr int64_t kRows = 32, kTimes = 16;

template <int64_t kBytes>
void spread_rows(const Columns& c, int64_t first, int64_t last) {
  const int64_t bytes = kBytes == 0 ? c.bytes : kBytes;
  for (int64_t time = 0; time < c.horizon; time += kTimes) {
    const int64_t end = std::min(time + kTimes, c.horizon);
    for (int64_t row = first; row < last; ++row) {
      const char* from = c.from + (time * c.segments + row) * bytes;
      char* to = c.to + row * c.row_step + time * c.time_step;
      for (int64_t t = time; t < end; ++t) {
        std::memcpy(to, from, static_cast<size_t>(bytes));
        from += c.segments * bytes;
        to += c.time_step;
      }
    }
  }
}

}  // namespace

void spread_columns(const Columns& c) {
  const int64_t blocks = (c.segments + kRows - 1) / kRows;
  baseline::parallel_blocks(blocks, c.segments * c.horizon * c.bytes * 2, [&](int64_t block) {
    const int64_t first = block * kRows, last = std::min(first + kRows, c.segments);
    switch (c.bytes) {
      case 1: return spread_rows<1>(c, first, last);
      case 4: return spread_rows<4>(c, first, last);
      case 8: return spread_rows<8>(c, first, last);
      default: return spread_rows<0>(c, first, last);
    }
  });
}

}  // namespace hotloop
