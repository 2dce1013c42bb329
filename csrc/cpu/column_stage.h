// Columns of a buffer [S, T] that are collected before they are written.
//
// A step of many agents writes one number into each of many rows, and every one of them is a cache line of its own.
// Here columns are collected next to each other until they fill such lines, and then spread over the rows.
#pragma once
#include <cstring>
#include <vector>

#include "move.h"
#include "stream.h"

namespace hotloop {

class ColumnStage {
 public:
  // Leaves [S, T, ...] that are about to be written. Nothing may be collected that was not spread.
  void bind(const std::vector<View>& leaves) {
    bool same = leaves_.size() == leaves.size();
    for (size_t l = 0; same && l < leaves.size(); ++l) same = same_layout(leaves_[l], leaves[l]);
    if (!same) planned_for_ = 0;
    leaves_ = leaves;
  }

  bool empty() const { return columns_ == 0; }
  // Whether these agents' column at `position` is the next one of those collected.
  bool continues(int64_t start, int64_t count, int64_t position) const {
    return start == start_ && count == count_ && position == position_ + columns_;
  }
  bool full() const { return columns_ == kColumns || (position_ + columns_) % kColumns == 0; }

  // Takes the moves of narrow leaves out of `moves`, one for each leaf, and returns them led into the stage; none for
  // few agents. The caller then carries them out. `empty()` or `continues(...)` must hold.
  std::vector<RowMove> take(std::vector<RowMove>* moves, int64_t start, int64_t count, int64_t position) {
    if (count < kFewAgents) return {};
    if (planned_for_ != count) plan(count);
    if (narrow_.empty()) return {};
    if (columns_ == 0) {
      start_ = start;
      count_ = count;
      position_ = position;
    }
    std::vector<RowMove> collected, direct;
    size_t next = 0;
    for (size_t l = 0; l < moves->size(); ++l) {
      if (next == narrow_.size() || narrow_[next].leaf != l) {
        direct.push_back((*moves)[l]);
        continue;
      }
      Narrow& leaf = narrow_[next++];
      collected.push_back((*moves)[l]);
      collected.back().to = leaf.memory.data() + columns_ * leaf.step;
      collected.back().to_step = leaf.bytes;
    }
    moves->swap(direct);
    ++columns_;
    return collected;
  }

  int64_t start() const { return start_; }
  int64_t count() const { return count_; }
  int64_t bytes() const {  // moved by `spread`
    int64_t bytes = 0;
    for (const Narrow& leaf : narrow_) bytes += 2 * columns_ * count_ * leaf.bytes;
    return bytes;
  }

  // The columns into the rows of these agents, [count].
  void spread(const int64_t* rows) {
    for (const Narrow& leaf : narrow_) {
      const View& view = leaves_[leaf.leaf];
      char* const to = view.data + position_ * leaf.bytes;
      const int64_t row_step = view.stride[0] * itemsize(view.dtype);
      switch (leaf.bytes) {
        case 1: spread_leaf<1>(leaf, to, row_step, rows); break;
        case 4: spread_words(leaf, to, row_step, rows); break;
        case 8: spread_leaf<8>(leaf, to, row_step, rows); break;
        case 16: spread_leaf<16>(leaf, to, row_step, rows); break;
        default: spread_leaf<0>(leaf, to, row_step, rows); break;
      }
    }
    columns_ = 0;
  }

 private:
  static constexpr int64_t kColumns = 16, kFewAgents = 256, kNarrowBytes = 32, kAhead = 8;
  struct Narrow {
    size_t leaf;
    int64_t bytes;  // of a column's entry in one row
    int64_t step;  // bytes from column to column, off the powers of two that share a set of the cache
    std::vector<char> memory;
  };

  static bool same_layout(const View& a, const View& b) {
    bool same = a.dtype == b.dtype && a.ndim == b.ndim;
    for (int d = 0; same && d < a.ndim; ++d) same = a.shape[d] == b.shape[d] && a.stride[d] == b.stride[d];
    return same;
  }

  void plan(int64_t count) {
    narrow_.clear();
    for (size_t l = 0; l < leaves_.size(); ++l) {
      const View& view = leaves_[l];
      int64_t bytes = itemsize(view.dtype);
      bool compact = true;  // columns lie behind each other, and so do the numbers of an entry
      for (int d = view.ndim - 1; d >= 1; --d) {
        compact &= view.stride[d] * itemsize(view.dtype) == bytes;
        if (d > 1) bytes *= view.shape[d];
      }
      if (!compact || bytes == 0 || bytes > kNarrowBytes) continue;
      const int64_t step = (count * bytes + 127) / 64 * 64;
      narrow_.push_back({l, bytes, step, std::vector<char>(static_cast<size_t>(kColumns * step))});
    }
    planned_for_ = count;
  }

  template <int64_t kBytes>
  void spread_leaf(const Narrow& from, char* to, int64_t row_step, const int64_t* rows, int64_t first = 0) const {
    const int64_t bytes = kBytes == 0 ? from.bytes : kBytes;
    const size_t length = static_cast<size_t>(columns_ * bytes);
    // A row is put together first: many short stores to a line that is still on its way fill the queue of stores.
    alignas(64) char row[kColumns * kNarrowBytes];
    for (int64_t i = first; i < count_; ++i) {
      if (i + kAhead < count_) will_write(to + rows[i + kAhead] * row_step, columns_ * bytes);
      const char* in = from.memory.data() + i * bytes;
      for (int64_t c = 0; c < columns_; ++c, in += from.step) {
        std::memcpy(row + c * bytes, in, static_cast<size_t>(kBytes == 0 ? bytes : kBytes));
      }
      std::memcpy(to + rows[i] * row_step, row, length);
    }
  }

  // Of four bytes: blocks of four columns of four agents are turned over in registers.
  void spread_words(const Narrow& from, char* to, int64_t row_step, const int64_t* rows) const {
    int64_t i = 0;
#if defined(__SSE2__)
    for (; i + 4 <= count_; i += 4) {
      char* out[4];
      for (int64_t a = 0; a < 4; ++a) {
        if (i + a + kAhead < count_) will_write(to + rows[i + a + kAhead] * row_step, columns_ * 4);
        out[a] = to + rows[i + a] * row_step;
      }
      const char* in = from.memory.data() + i * 4;
      int64_t c = 0;
      for (; c + 4 <= columns_; c += 4, in += 4 * from.step) turn_over(in, from.step, out, c * 4);
      for (; c < columns_; ++c, in += from.step) {
        for (int64_t a = 0; a < 4; ++a) std::memcpy(out[a] + c * 4, in + a * 4, 4);
      }
    }
#endif
    if (i < count_) spread_leaf<4>(from, to, row_step, rows, i);
  }

#if defined(__SSE2__)
  static void turn_over(const char* in, int64_t step, char* const* out, int64_t at) {
    __m128i column[4];
    for (int64_t c = 0; c < 4; ++c) column[c] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + c * step));
    const __m128i low01 = _mm_unpacklo_epi32(column[0], column[1]);
    const __m128i low23 = _mm_unpacklo_epi32(column[2], column[3]);
    const __m128i high01 = _mm_unpackhi_epi32(column[0], column[1]);
    const __m128i high23 = _mm_unpackhi_epi32(column[2], column[3]);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out[0] + at), _mm_unpacklo_epi64(low01, low23));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out[1] + at), _mm_unpackhi_epi64(low01, low23));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out[2] + at), _mm_unpacklo_epi64(high01, high23));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out[3] + at), _mm_unpackhi_epi64(high01, high23));
  }
#endif

  std::vector<View> leaves_;
  std::vector<Narrow> narrow_;
  int64_t planned_for_ = 0;  // agents
  int64_t start_ = 0, count_ = 0, position_ = 0, columns_ = 0;
};

}  // namespace hotloop
