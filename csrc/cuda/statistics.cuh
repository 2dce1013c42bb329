// Statistics of advantages that have been written: of each row, and of all from those. Every sum has the order that
// csrc/cpu/statistics.h gives it, so the bits are those of the CPU.
#pragma once
#include "element.cuh"
#include "../core/estimator_args.h"

namespace hotloop {
namespace device {

enum Partial { kCount, kSum, kMean, kDeviations, kNonFinite, kFirstStep };

constexpr int kDoubleLanes = 8;  // partial sums a row
constexpr int kSummaryThreads = 128;

HL_DEVICE bool is_finite(double x) { return x - x == 0; }

struct RowStatistics {
  Array advantages, valid;  // [N, T]; valid or absent
  int64_t rows, horizon;
  double* partials;  // [N, kSummarySize]
};

enum class Sum { count, value, deviation };

// Sum over the valid steps of a row, not finite where an advantage is not; all lanes of the row get it.
template <class T, Sum kSumOf>
HL_DEVICE double row_sum(const RowStatistics& s, int64_t row, int lane, double mean) {
  double sum = 0;
  for (int64_t t = lane; row < s.rows && t < s.horizon; t += kDoubleLanes) {
    const double x = static_cast<double>(load_at<T>(s.advantages, row, t));
    const double weight = flag_or<T>(s.valid, row, t, true) ? 1.0 : 0.0;
    const double f = kSumOf == Sum::count ? 1.0 : kSumOf == Sum::value ? x : (x - mean) * (x - mean);
    sum += f * weight;
  }
  for (int width = kDoubleLanes / 2; width > 0; width /= 2) {
    sum += __shfl_down_sync(kAllLanes, sum, width, kDoubleLanes);
  }
  return __shfl_sync(kAllLanes, sum, 0, kDoubleLanes);
}

// Of a row that holds NaN or infinity: those are counted and left out. Rare, and one thread's work.
template <class T>
HL_DEVICE void summarize_finite(const RowStatistics& s, int64_t row, double* out) {
  double count = 0, sum = 0, deviations = 0, bad = 0, first = -1;
  for (int64_t t = 0; t < s.horizon; ++t) {
    if (!flag_or<T>(s.valid, row, t, true)) continue;
    const double x = static_cast<double>(load_at<T>(s.advantages, row, t));
    if (is_finite(x)) {
      count += 1;
      sum += x;
    } else {
      if (bad == 0) first = static_cast<double>(t);
      bad += 1;
    }
  }
  const double mean = count > 0 ? sum / count : 0;
  for (int64_t t = 0; t < s.horizon; ++t) {
    if (!flag_or<T>(s.valid, row, t, true)) continue;
    const double x = static_cast<double>(load_at<T>(s.advantages, row, t));
    if (is_finite(x)) deviations += (x - mean) * (x - mean);
  }
  const double all[kSummarySize] = {count, sum, mean, deviations, bad, first};
  for (int i = 0; i < kSummarySize; ++i) out[i] = all[i];
}

template <class T>
__global__ void __launch_bounds__(kSummaryThreads, 8) summarize_rows_kernel(const RowStatistics s) {
  const int lane = static_cast<int>(threadIdx.x % kDoubleLanes);
  const int64_t row = global_thread() / kDoubleLanes;
  const double count = !s.valid.given() ? static_cast<double>(s.horizon) : row_sum<T, Sum::count>(s, row, lane, 0);
  const double sum = row_sum<T, Sum::value>(s, row, lane, 0);
  const double mean = count > 0 ? sum / count : 0;
  const double deviations = row_sum<T, Sum::deviation>(s, row, lane, mean);
  if (lane != 0 || row >= s.rows) return;
  double* out = s.partials + row * kSummarySize;
  if (!is_finite(sum)) return summarize_finite<T>(s, row, out);
  const double all[kSummarySize] = {count, sum, mean, deviations, 0, -1};
  for (int i = 0; i < kSummarySize; ++i) out[i] = all[i];
}

constexpr int kFinishThreads = 128;
constexpr int kFinishRows = 128;  // staged at once: 6 KiB

// One block: it reads the rows' statistics together, and one thread adds them up in order.
static __global__ void __launch_bounds__(kFinishThreads, 1)
    summarize_all_kernel(const double* partials, const int64_t rows, double* summary) {
  HL_SHARED(double, staged, kFinishRows* kSummarySize);
  double count = 0, total = 0, deviations = 0, bad = 0, first_row = -1, first_step = -1;
  double mean = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t done = 0; done < rows; done += kFinishRows) {
      // The first pass goes from the last row to the first, the second from the first to the last.
      const int64_t left = rows - done, staged_rows = left < kFinishRows ? left : kFinishRows;
      const int64_t from = pass == 0 ? rows - done - staged_rows : done;
      for (int64_t i = threadIdx.x; i < staged_rows * kSummarySize; i += kFinishThreads) {
        staged[i] = partials[from * kSummarySize + i];
      }
      __syncthreads();
      for (int64_t i = 0; threadIdx.x == 0 && i < staged_rows; ++i) {
        const int64_t at = (pass == 0 ? staged_rows - 1 - i : i) * kSummarySize;
        if (pass == 0) {
          count += staged[at + kCount];
          total += staged[at + kSum];
          bad += staged[at + kNonFinite];
          if (staged[at + kNonFinite] > 0) {
            first_row = static_cast<double>(from + staged_rows - 1 - i);
            first_step = staged[at + kFirstStep];
          }
        } else {
          const double distance = staged[at + kMean] - mean;
          deviations += staged[at + kDeviations] + staged[at + kCount] * distance * distance;
        }
      }
      __syncthreads();
    }
    mean = count > 0 ? total / count : 0;
  }
  if (threadIdx.x != 0) return;
  const double all[kSummarySize] = {count, mean, deviations, bad, first_row, first_step};
  for (int i = 0; i < kSummarySize; ++i) summary[i] = all[i];
}

}  // namespace device
}  // namespace hotloop
