// Tables of tensors that a kernel walks, all of them in few launches: they travel as its parameters, so nothing is
// copied to the device first and a captured graph keeps them.
#pragma once
#include <vector>

#include "element.cuh"
#include "runtime.h"
#include "../core/joint_runs.h"

namespace hotloop {
namespace device {

// Elements that lie at one stride in each of kViews tensors, walked in pieces of kMaxRun.
template <int kViews>
struct Leaf {
  char* data[kViews];
  int64_t stride_bytes[kViews];
  int64_t count;
  int64_t first;  // the number of its first piece among those of the launch
  int32_t tensor;
  DType dtype;

  HL_DEVICE char* at(int view, int64_t i) const { return data[view] + i * stride_bytes[view]; }
};

template <int kViews, int kLeaves>
struct LeafTable {
  Leaf<kViews> leaves[kLeaves];
  int32_t count;
  int64_t pieces;  // of all leaves
  int64_t first_piece;  // of this launch among those of all
};

// The leaf that a piece of the launch belongs to.
template <int kViews, int kLeaves>
HL_DEVICE int leaf_of(const LeafTable<kViews, kLeaves>& table, int64_t piece) {
  int low = 0, high = table.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.leaves[middle].first <= piece) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// Fills tables with runs, which it joins where one goes on as the last one ended, and calls launch(table) for each.
template <int kViews, int kLeaves>
class LeafTables {
 public:
  template <class Launch>
  cudaError_t add(const JointRun<kViews>& run, DType dtype, int64_t tensor, const Launch& launch) {
    const int64_t item = itemsize(dtype);
    if (!joined(run, dtype, tensor)) {
      if (table_.count == kLeaves) {
        const cudaError_t error = flush(launch);
        if (error != cudaSuccess) return error;
      }
      Leaf<kViews>& leaf = table_.leaves[table_.count++];
      for (int v = 0; v < kViews; ++v) {
        leaf.data[v] = run.data[v];
        leaf.stride_bytes[v] = run.stride[v] * item;
      }
      leaf.count = run.count;
      leaf.first = table_.pieces;
      leaf.tensor = static_cast<int32_t>(tensor);
      leaf.dtype = dtype;
    }
    ++table_.pieces;
    return cudaSuccess;
  }

  template <class Launch>
  cudaError_t flush(const Launch& launch) {
    if (table_.count == 0) return cudaSuccess;
    const cudaError_t error = launch(table_);
    table_.first_piece += table_.pieces;
    table_.pieces = table_.count = 0;
    return error;
  }

 private:
  bool joined(const JointRun<kViews>& run, DType dtype, int64_t tensor) {
    if (table_.count == 0) return false;
    Leaf<kViews>& leaf = table_.leaves[table_.count - 1];
    if (leaf.tensor != tensor || leaf.dtype != dtype || leaf.count % kMaxRun != 0) return false;
    for (int v = 0; v < kViews; ++v) {
      const int64_t stride = run.stride[v] * itemsize(dtype);
      if (leaf.stride_bytes[v] != stride || leaf.data[v] + leaf.count * stride != run.data[v]) return false;
    }
    leaf.count += run.count;
    return true;
  }

  LeafTable<kViews, kLeaves> table_{};
};

}  // namespace device
}  // namespace hotloop
