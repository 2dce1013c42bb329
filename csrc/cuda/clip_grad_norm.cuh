// The norm of all gradients, summed in the CPU's order, and their scaling. The norm never leaves the device.
#pragma once
#include "element.cuh"
#include "leaf_table.cuh"
#include "ordered_sums.cuh"
#include "../core/clip_grad_norm_params.h"

namespace hotloop {
namespace device {

constexpr int kGradientsALaunch = 100;  // below 4 KiB of parameters
using GradientTable = LeafTable<1, kGradientsALaunch>;

constexpr int kNormThreads = 256;
constexpr int kNormSums = 16;     // partial sums of a piece: element i belongs to sum i % 16
constexpr int kNormTile = 1024;  // elements that are fetched while the squares of as many are added

// One block a piece.
static __global__ void __launch_bounds__(kNormThreads)
    square_sums_kernel(const GradientTable table, double* sums) {
  HL_SHARED(double, staged, 2 * kNormTile);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t piece = blockIdx.x;
  const Leaf<1>& leaf = table.leaves[leaf_of(table, piece)];
  const int64_t start = (piece - leaf.first) * kMaxRun;
  const int64_t end = start + kMaxRun < leaf.count ? start + kMaxRun : leaf.count;
  double sum = 0;
  int half = 0;
  for (int64_t at = start; at < end; at += kNormTile, half = kNormTile - half) {
    const int count = static_cast<int>(end - at < kNormTile ? end - at : kNormTile);
    for (int i = thread; i < count; i += kNormThreads) {
      staged[half + i] = load_element<double>(leaf.at(0, at + i), leaf.dtype);
    }
    // The other half is written next, whose readers are here already: one barrier a tile.
    __syncthreads();
    for (int i = thread; thread < kNormSums && i < count; i += kNormSums) {
      const double v = staged[half + i];
      sum += v * v;
    }
  }
  if (thread >= kWarp) return;
  for (int width = kNormSums / 2; width > 0; width /= 2) {
    sum += __shfl_down_sync(kAllLanes, sum, width, kNormSums);
  }
  if (thread == 0) sums[table.first_piece + piece] = sum;
}

// One block: the norm, and what gradients are multiplied by.
static __global__ void __launch_bounds__(kNormThreads, 1)
    gradient_norm_kernel(const double* sums, const int64_t pieces, const double max_norm, char* norm,
                         const DType dtype, double* factor) {
  HL_SHARED(double, staged, kStagedSums);
  const double total = ::sqrt(sum_rows(sums, pieces, 1, 0, 1, staged));
  if (threadIdx.x != 0) return;
  store_element(norm, dtype, total);
  *factor = clip_factor(max_norm, total);
}

constexpr int kScaleParts = 8;  // blocks of a piece

static __global__ void __launch_bounds__(kNormThreads)
    scale_gradients_kernel(const GradientTable table, const double* factor) {
  const double by = *factor;
  if (by >= 1) return;  // NaN is not
  const int64_t piece = blockIdx.x;
  const Leaf<1>& leaf = table.leaves[leaf_of(table, piece)];
  const int64_t part = kMaxRun / kScaleParts;
  const int64_t start = (piece - leaf.first) * kMaxRun + static_cast<int64_t>(blockIdx.y) * part;
  const int64_t end = start + part < leaf.count ? start + part : leaf.count;
  for (int64_t i = start + threadIdx.x; i < end; i += kNormThreads) {
    char* at = leaf.at(0, i);
    if (leaf.dtype == DType::f64) {
      *reinterpret_cast<double*>(at) *= by;
    } else {
      store_element(at, leaf.dtype, load_element<float>(at, leaf.dtype) * static_cast<float>(by));
    }
  }
}

}  // namespace device
}  // namespace hotloop
