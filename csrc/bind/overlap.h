// For ops with many written tensors: a sorted sweep over their memory in place of a comparison of every pair.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <vector>

#include "tensor_arg.h"

namespace hotloop {

// Whether the memory between first and last element of any two views has a byte in common. Where it does they may
// still be disjoint (interleaved): expect_all_disjoint tells.
inline bool may_overlap(std::initializer_list<const std::vector<View>*> lists) {
  std::vector<ByteRange> ranges;
  for (const std::vector<View>* views : lists) {
    for (const View& view : *views) {
      const ByteRange range = byte_range(view);
      if (range.begin != range.end) ranges.push_back(range);
    }
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const ByteRange& a, const ByteRange& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].begin < ranges[i - 1].end) return true;
  }
  return false;
}

}  // namespace hotloop
