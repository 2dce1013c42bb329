// Sums whose order decides their bits, made by few threads from what many have fetched.
#pragma once
#include "device.h"

namespace hotloop {
namespace device {

constexpr int kStagedSums = 1024;  // numbers that are fetched at once: 8 KiB

// One block: adds the rows of `numbers` [rows, stride] up, one after the other, for `columns` columns from `first` on.
// Thread i gets the sum of column first + i, those beyond `columns` get 0. `staged` holds kStagedSums.
template <class Staged>
HL_DEVICE double sum_rows(const double* numbers, int64_t rows, int64_t stride, int64_t first, int columns,
                          Staged& staged) {
  const int thread = static_cast<int>(threadIdx.x);
  const int fetched = kStagedSums / columns;
  double sum = 0;
  for (int64_t start = 0; start < rows; start += fetched) {
    const int count = static_cast<int>(rows - start < fetched ? rows - start : fetched);
    for (int i = thread; i < count * columns; i += static_cast<int>(blockDim.x)) {
      staged[i] = numbers[(start + i / columns) * stride + first + i % columns];
    }
    __syncthreads();
    for (int row = 0; thread < columns && row < count; ++row) {
      sum += static_cast<double>(staged[row * columns + thread]);
    }
    __syncthreads();
  }
  return sum;
}

}  // namespace device
}  // namespace hotloop
