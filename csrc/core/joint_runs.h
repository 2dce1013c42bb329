// Tensors of one shape walked together: lists of runs, each of which lies at one stride in every one of them.
#pragma once
#include <algorithm>
#include <vector>

#include "view.h"

namespace hotloop {

template <int kViews>
struct JointRun {
  char* data[kViews];
  int64_t stride[kViews];  // in elements
  int64_t count;
};

// Elements of a run: 64 KiB of floats. Sums by run are added in the order of runs, so this decides their bits.
constexpr int64_t kMaxRun = int64_t{1} << 14;
constexpr int64_t kShortRun = 16;  // neighbours are not worth their own loop below this

// Whether the elements lie one after another, the last dimension being the finest.
static inline bool is_compact(const View& view) {
  int64_t stride = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    if (view.shape[i] != 1 && view.stride[i] != stride) return false;
    stride *= view.shape[i];
  }
  return true;
}

namespace joint {

template <int kViews>
struct Dims {
  int count = 0;
  int64_t shape[kMaxDims], stride[kMaxDims][kViews];
};

// One dimension where all views are compact, which parameters and what belongs to them nearly always are.
template <int kViews>
bool compact_dims(const View (&views)[kViews], Dims<kViews>* dims) {
  for (const View& view : views) {
    if (!is_compact(view)) return false;
  }
  dims->count = 1;
  dims->shape[0] = view_numel(views[0]);
  for (int i = 0; i < kViews; ++i) dims->stride[0][i] = 1;
  return true;
}

// Dimensions from the finest to the coarsest of the first view, merged where all views allow.
template <int kViews>
Dims<kViews> merged_dims(const View (&views)[kViews]) {
  int order[kMaxDims];
  int kept = 0;
  for (int d = views[0].ndim - 1; d >= 0; --d) {
    if (views[0].shape[d] == 1) continue;
    int at = kept++;
    for (; at > 0 && views[0].stride[d] < views[0].stride[order[at - 1]]; --at) order[at] = order[at - 1];
    order[at] = d;
  }
  Dims<kViews> dims;
  for (int k = 0; k < kept; ++k) {
    const int last = dims.count - 1;
    bool merges = last >= 0;
    for (int i = 0; merges && i < kViews; ++i) {
      merges = views[i].stride[order[k]] == dims.stride[last][i] * dims.shape[last];
    }
    if (merges) {
      dims.shape[last] *= views[0].shape[order[k]];
      continue;
    }
    dims.shape[dims.count] = views[0].shape[order[k]];
    for (int i = 0; i < kViews; ++i) dims.stride[dims.count][i] = views[i].stride[order[k]];
    ++dims.count;
  }
  return dims;
}

// The dimension that runs go along: neighbours in memory where there are enough of them, else the longest.
template <int kViews>
int run_dim(const Dims<kViews>& dims) {
  bool neighbours = dims.shape[0] >= kShortRun;
  for (int i = 0; i < kViews; ++i) neighbours = neighbours && dims.stride[0][i] == 1;
  if (neighbours) return 0;
  return static_cast<int>(std::max_element(dims.shape, dims.shape + dims.count) - dims.shape);
}

}  // namespace joint

// Calls add(run) for runs of at most kMaxRun elements that together are all elements, in an order that depends on
// nothing but sizes and strides.
template <int kViews, class Add>
void for_joint_runs(const View (&views)[kViews], const Add& add) {
  if (view_numel(views[0]) == 0) return;
  joint::Dims<kViews> dims;
  if (!joint::compact_dims(views, &dims)) dims = joint::merged_dims(views);
  if (dims.count == 0) {  // one element
    dims.count = 1;
    dims.shape[0] = 1;
    for (int i = 0; i < kViews; ++i) dims.stride[0][i] = 1;
  }
  const int along = joint::run_dim(dims);
  int64_t index[kMaxDims] = {};
  int64_t offset[kViews] = {};
  for (;;) {
    for (int64_t start = 0; start < dims.shape[along]; start += kMaxRun) {
      JointRun<kViews> run;
      run.count = std::min(kMaxRun, dims.shape[along] - start);
      for (int i = 0; i < kViews; ++i) {
        run.stride[i] = dims.stride[along][i];
        run.data[i] = views[i].data + (offset[i] + start * run.stride[i]) * itemsize(views[i].dtype);
      }
      add(run);
    }
    int d = 0;
    for (; d < dims.count; ++d) {
      if (d == along) continue;
      const bool wraps = ++index[d] == dims.shape[d];
      for (int i = 0; i < kViews; ++i) offset[i] += dims.stride[d][i] * (wraps ? 1 - dims.shape[d] : 1);
      if (!wraps) break;
      index[d] = 0;
    }
    if (d == dims.count) return;
  }
}

}  // namespace hotloop
