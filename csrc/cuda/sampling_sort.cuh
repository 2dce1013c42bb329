// Sorting by keys with a bitonic network (Batcher 1968): a shape that depends on the size alone, in blocks of kSorted
// keys as far as shared memory reaches.
#pragma once
#include "device.h"

namespace hotloop {
namespace device {

struct Key {
  uint64_t key, index;  // the index breaks ties
};

HL_DEVICE bool comes_before(const Key& a, const Key& b) {
  return a.key < b.key || (a.key == b.key && a.index < b.index);
}

constexpr int kSortThreads = 512;
constexpr int kSorted = 2048;  // keys of a block: 32 KiB

// One step of the network on the keys of a block: pairs `distance` apart, ascending where bit `run` of their place in
// the whole is 0.
template <class Keys>
HL_DEVICE void exchange_in_block(Keys& keys, int64_t first, int size, int64_t run, int distance) {
  for (int pair = static_cast<int>(threadIdx.x); pair < size / 2; pair += kSortThreads) {
    const int low = pair / distance * 2 * distance + pair % distance, high = low + distance;
    const Key a = keys[low], b = keys[high];
    const bool ascending = ((first + low) & run) == 0;
    if (comes_before(b, a) == ascending) {
      keys[low] = b;
      keys[high] = a;
    }
  }
}

// Runs of `from_run` to `to_run` keys, the steps of each that fit into a block of `size` keys, a power of two.
static __global__ void __launch_bounds__(kSortThreads, 2)
    sort_block_kernel(Key* all, const int size, const int64_t from_run, const int64_t to_run) {
  HL_SHARED(Key, keys, kSorted);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * size;
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kSortThreads) keys[i] = all[first + i];
  __syncthreads();
  for (int64_t run = from_run; run <= to_run; run *= 2) {
    const int64_t half = run / 2;
    for (int distance = half < size / 2 ? static_cast<int>(half) : size / 2; distance > 0; distance /= 2) {
      exchange_in_block(keys, first, size, run, distance);
      __syncthreads();
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kSortThreads) all[first + i] = keys[i];
}

// One step whose pairs lie in different blocks.
static __global__ void __launch_bounds__(kSortThreads)
    sort_step_kernel(Key* all, const int64_t pairs, const int64_t run, const int64_t distance) {
  const int64_t pair = global_thread();
  if (pair >= pairs) return;
  const int64_t low = pair / distance * 2 * distance + pair % distance, high = low + distance;
  const Key a = all[low], b = all[high];
  if (comes_before(b, a) == ((low & run) == 0)) {
    all[low] = b;
    all[high] = a;
  }
}

}  // namespace device
}  // namespace hotloop
