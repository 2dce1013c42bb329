#include "move.h"

#include <algorithm>
#include <cstring>

#include "load.h"
#include "parallel.h"
#include "stream.h"

namespace hotloop {
namespace {

constexpr int64_t kBlocks = 16;  // row blocks per leaf: enough to balance threads, few enough to stay cheap

// Short rows into lines of their own, as of one column of a rollout's buffer.
constexpr int64_t kLine = 64, kAheadShortRows = 16;
constexpr int64_t kAheadRows = 3;      // asked for while others are copied ...
constexpr int64_t kAheadBytes =
    4096;  // ... where a row is not so long that the processor sees it coming by itself

struct Identity {
  int64_t operator[](int64_t i) const { return i; }
};

// A row of known size is one move instead of a call.
template <int64_t kBytes, class ToRows, class FromRows>
void move_fixed(const RowMove& m, ToRows to_rows, FromRows from_rows, int64_t begin, int64_t end) {
  const int64_t ahead = m.to_step < kLine ? end : kAheadShortRows;
  for (int64_t i = begin; i < end; ++i) {
    if (i + ahead < end) will_write(m.to + to_rows[i + ahead] * m.to_step, 1);
    std::memcpy(m.to + to_rows[i] * m.to_step, m.from + from_rows[i] * m.from_step, kBytes);
  }
}

template <class ToRows, class FromRows>
void move_leaf(const RowMove& m, ToRows to_rows, FromRows from_rows, int64_t begin, int64_t end) {
  switch (m.row.contiguous_bytes) {
    case 1: return move_fixed<1>(m, to_rows, from_rows, begin, end);
    case 2: return move_fixed<2>(m, to_rows, from_rows, begin, end);
    case 4: return move_fixed<4>(m, to_rows, from_rows, begin, end);
    case 8: return move_fixed<8>(m, to_rows, from_rows, begin, end);
    case 16: return move_fixed<16>(m, to_rows, from_rows, begin, end);
    default: break;
  }
  if (m.stream) {
    for (int64_t i = begin; i < end; ++i) {
      stream_bytes(m.to + to_rows[i] * m.to_step, m.from + from_rows[i] * m.from_step, m.row.contiguous_bytes);
    }
    return stream_end();
  }
  const bool wide = m.row.contiguous_bytes >= kStreamRowBytes && m.row.contiguous_bytes <= kAheadBytes;
  for (int64_t i = begin; i < end; ++i) {
    if (wide && i + kAheadRows < end) {
      will_write(m.to + to_rows[i + kAheadRows] * m.to_step, m.row.contiguous_bytes);
    }
    copy_row(m.row, m.to + to_rows[i] * m.to_step, m.from + from_rows[i] * m.from_step);
  }
}

void move_in_order(const RowMove& m, int64_t begin, int64_t end) {
  const int64_t bytes = m.row.contiguous_bytes;
  if (bytes != 0 && m.to_step == bytes && m.from_step == bytes) {  // one block: libc decides how
    std::memcpy(m.to + begin * bytes, m.from + begin * bytes, static_cast<size_t>((end - begin) * bytes));
  } else if (bytes == 0 && m.row.ndim == 0) {  // rows of one number that is converted: a strided run
    const int64_t part = m.to_step < kLine ? end - begin : 4 * kAheadShortRows;
    for (int64_t i = begin; i < end; i += part) {
      const int64_t count = std::min(part, end - i);
      for (int64_t j = i; m.to_step >= kLine && j < i + count; ++j) will_write(m.to + j * m.to_step, 1);
      copy_run(m.row, m.to + i * m.to_step, m.to_step / itemsize(m.row.to), m.from + i * m.from_step,
               m.from_step / itemsize(m.row.from), count);
    }
  } else {
    move_leaf(m, Identity{}, Identity{}, begin, end);
  }
}

}  // namespace

RowMove plan_move(const View& to, int to_skip, const View& from, int from_skip, double scale) {
  // An empty tensor may have no memory, and a null pointer cannot be moved on; nothing is read or written there.
  static char nothing;
  RowMove move;
  move.row = plan_row_copy(to, to_skip, from, from_skip, scale);
  move.to = to.data != nullptr ? to.data : &nothing;
  move.from = from.data != nullptr ? from.data : &nothing;
  move.to_step = to.stride[to_skip - 1] * itemsize(to.dtype);
  move.from_step = from.stride[from_skip - 1] * itemsize(from.dtype);
  move.stream = move.row.contiguous_bytes >= kStreamRowBytes && view_bytes(to) >= kStreamTensorBytes;
  return move;
}

void move_rows(const std::vector<RowMove>& moves, const int64_t* to_rows, const int64_t* from_rows, int64_t count,
               int64_t bytes) {
  const int64_t leaves = static_cast<int64_t>(moves.size());
  const auto rows = [&](const RowMove& move, int64_t begin, int64_t end) {
    if (to_rows != nullptr && from_rows != nullptr) return move_leaf(move, to_rows, from_rows, begin, end);
    if (to_rows != nullptr) return move_leaf(move, to_rows, Identity{}, begin, end);
    if (from_rows != nullptr) return move_leaf(move, Identity{}, from_rows, begin, end);
    move_in_order(move, begin, end);
  };
  if (to_rows != nullptr || bytes < kSerialGrainBytes) {
    for (const RowMove& move : moves) rows(move, 0, count);
    return;
  }
  // Blocks of rows outside, leaves inside: every thread gets its share of the wide leaf.
  baseline::parallel_blocks(kBlocks * leaves, bytes, [&](int64_t task) {
    const int64_t block = task / leaves;
    rows(moves[static_cast<size_t>(task % leaves)], block * count / kBlocks, (block + 1) * count / kBlocks);
  });
}

void clear_rows(const RowMove& move, const Matrix& flags, int64_t count) {
  RowCopy clear = move.row;  // one zero read with stride 0 fills a row
  clear.from = clear.to;
  clear.contiguous_bytes = 0;
  clear.scale = 1.0;
  std::fill(std::begin(clear.from_stride), std::end(clear.from_stride), 0);
  alignas(8) const char zero[8] = {};
  constexpr int64_t kRun = 256;
  float scratch[kRun];
  for (int64_t begin = 0; begin < count; begin += kRun) {
    const int64_t size = std::min(kRun, count - begin);
    const float* flagged = baseline::load_along_rows(flags, begin, 0, size, scratch);
    for (int64_t i = 0; i < size; ++i) {
      if (flagged[i] != 0.0f) copy_row(clear, move.to + (begin + i) * move.to_step, zero);
    }
  }
}

}  // namespace hotloop
