// Kernels with one fault each, and the same without it: what the runner must notice and what it must let pass.
//
// usage: faults CASE right|wrong SEED; prints what the runner said, or "nothing", and then the result.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "../../csrc/cuda/device.h"

namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kTile = 64;

// Reverses a tile through shared memory.
__global__ void reverse_kernel(const int* x, int* y, bool with_barrier) {
  HL_SHARED(int, tile, kTile);
  tile[threadIdx.x] = x[threadIdx.x];
  if (with_barrier) __syncthreads();
  y[threadIdx.x] = tile[kTile - 1 - threadIdx.x];
}

// The tile is used twice: the second write must not overtake the reads of the first.
__global__ void reuse_kernel(const int* x, int* y, bool with_barrier) {
  HL_SHARED(int, tile, kTile);
  for (int round = 0; round < 2; ++round) {
    tile[threadIdx.x] = x[threadIdx.x] + round;
    __syncthreads();
    y[threadIdx.x] = tile[kTile - 1 - threadIdx.x];
    if (with_barrier) __syncthreads();
  }
}

// Neighbours within a warp.
__global__ void warp_exchange_kernel(const int* x, int* y, bool with_barrier) {
  HL_SHARED(int, tile, kTile);
  tile[threadIdx.x] = x[threadIdx.x];
  if (with_barrier) __syncwarp();
  y[threadIdx.x] = tile[threadIdx.x ^ 1];
}

__global__ void two_writers_kernel(int* y, bool apart) {
  HL_SHARED(int, tile, kTile);
  tile[apart ? threadIdx.x : threadIdx.x / 2] = 1;
  __syncthreads();
  y[threadIdx.x] = 0;
}

__global__ void store_kernel(int* y, int count, bool guarded) {
  const int i = static_cast<int>(threadIdx.x);
  if (guarded ? i < count : i <= count) y[i] = i;
}

__global__ void shared_bounds_kernel(int* y, bool guarded) {
  HL_SHARED(int, tile, kTile);
  tile[threadIdx.x + (guarded ? 0 : 1)] = 1;
  y[threadIdx.x] = 0;
}

__global__ void shuffle_kernel(int* y, bool together) {
  int value = static_cast<int>(threadIdx.x);
  if (together || threadIdx.x % 32 < 20) value = __shfl_down_sync(kAll, value, 1);
  y[threadIdx.x] = value;
}

__global__ void shuffle_masks_kernel(int* y, bool same) {
  const unsigned mask = same || threadIdx.x % 2 == 0 ? kAll : kAll >> 1;
  y[threadIdx.x] = __shfl_sync(mask, static_cast<int>(threadIdx.x), 0);
}

__global__ void shuffle_outside_kernel(int* y,
                                       bool inside) {  // the upper half asks a lane that does not take part
  int value = 0;
  if (threadIdx.x % 32 >= 16) value = __shfl_sync(0xffff0000u, static_cast<int>(threadIdx.x), inside ? 16 : 3);
  y[threadIdx.x] = value;
}

__global__ void vote_kernel(int* y, bool together) {
  int value = 0;
  if (together || threadIdx.x != 7) value = __ballot_sync(kAll, threadIdx.x % 2 == 0) != 0;
  y[threadIdx.x] = value;
}

__global__ void barrier_kernel(int* y, bool together) {
  if (together || threadIdx.x < 40) __syncthreads();
  y[threadIdx.x] = 0;
}

__global__ void two_barriers_kernel(int* y, bool together) {
  if (together || threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  if (together && threadIdx.x >= kTile) __syncthreads();
  y[threadIdx.x] = 0;
}

__global__ void uninitialised_kernel(int* y, bool complete) {
  HL_SHARED(int, tile, kTile);
  if (complete || threadIdx.x != 5) tile[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = tile[kTile - 1 - threadIdx.x];
}

// What one block leaves in shared memory is not there for the next.
__global__ void left_over_kernel(int* y, bool complete) {
  HL_SHARED(int, tile, kTile);
  if (complete || blockIdx.x % 2 == 0) tile[threadIdx.x] = 1;
  y[threadIdx.x] = tile[threadIdx.x];
}

// Sums in tiles; the last one is shorter, and a sum that does not know meets what the tile before left there.
__global__ void last_tile_kernel(const int* x, int* y, int count, bool guarded) {
  HL_SHARED(int, tile, kTile);
  int sum = 0;
  for (int begin = 0; begin < count; begin += kTile) {
    const int i = begin + static_cast<int>(threadIdx.x);
    if (i < count) tile[threadIdx.x] = x[i];
    __syncthreads();
    const int left = count - begin < kTile ? count - begin : kTile;
    for (int k = 0; threadIdx.x == 0 && k < (guarded ? left : kTile); ++k) sum += tile[k];
    __syncthreads();
  }
  if (threadIdx.x == 0) y[0] = sum;
}

__global__ void atomic_kernel(int* y) {
  HL_SHARED(int, counter, 1);
  if (threadIdx.x == 0) counter[0] = 0;
  __syncthreads();
  atomicAdd(&counter[0], 1);
  atomicAdd(y, 1);
  __syncthreads();
  if (threadIdx.x == 0) y[1] = counter[0];
}

__global__ void order_kernel(int* y) {  // who comes first? Nothing in the kernel says
  const int place = atomicAdd(y, 1);
  y[1 + place] = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

__global__ void index_kernel(int* y) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  y[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1;
}

__global__ void dynamic_kernel(int* y) {
  HL_DYNAMIC_SHARED(int, tile);
  tile[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  y[threadIdx.x] = tile[kTile - 1 - threadIdx.x];
}

__global__ void nothing_kernel() {}

int run(const std::string& name, bool right) {
  std::vector<int> x(200), out(200);
  for (int i = 0; i < 200; ++i) x[i] = i + 1;
  const std::unique_ptr<int[]> memory(new int[70]());  // AddressSanitizer knows where it ends
  int* const y = memory.get();
  const auto one = [&](auto kernel, auto... args) { HL_LAUNCH(kernel, 3, kTile, 0, nullptr, args...); };
  if (name == "barrier_missing")
    one(reverse_kernel, x.data(), y, right);
  else if (name == "barrier_missing_at_reuse")
    one(reuse_kernel, x.data(), y, right);
  else if (name == "warp_barrier_missing")
    one(warp_exchange_kernel, x.data(), y, right);
  else if (name == "two_writers")
    one(two_writers_kernel, y, right);
  else if (name == "store_off_by_one")
    HL_LAUNCH(store_kernel, 1, 128, 0, nullptr, y, 70, right);
  else if (name == "shared_off_by_one")
    one(shared_bounds_kernel, y, right);
  else if (name == "shuffle_divergent")
    one(shuffle_kernel, y, right);
  else if (name == "shuffle_masks_differ")
    one(shuffle_masks_kernel, y, right);
  else if (name == "shuffle_outside_mask")
    one(shuffle_outside_kernel, y, right);
  else if (name == "vote_divergent")
    one(vote_kernel, y, right);
  else if (name == "barrier_divergent")
    one(barrier_kernel, y, right);
  else if (name == "barriers_differ")
    one(two_barriers_kernel, y, right);
  else if (name == "shared_uninitialised")
    one(uninitialised_kernel, y, right);
  else if (name == "shared_left_over")
    one(left_over_kernel, y, right);
  else if (name == "last_tile_stale")
    one(last_tile_kernel, x.data(), y, 150, right);
  else if (name == "threads_too_many")
    HL_LAUNCH(nothing_kernel, 1, right ? 1024 : 1025, 0, nullptr);
  else if (name == "block_too_deep")
    HL_LAUNCH(nothing_kernel, 1, dim3(1, 1, right ? 64 : 65), 0, nullptr);
  else if (name == "grid_empty")
    HL_LAUNCH(nothing_kernel, right ? 1 : 0, 32, 0, nullptr);
  else if (name == "grid_too_high")
    HL_LAUNCH(nothing_kernel, dim3(1, right ? 65535 : 65536), 1, 0, nullptr);
  else if (name == "shared_too_large")
    HL_LAUNCH(nothing_kernel, 1, 32, right ? 49152 : 49153, nullptr);
  else if (name == "dynamic")
    HL_LAUNCH(dynamic_kernel, 2, kTile, right ? 4 * kTile : 4 * kTile - 4, nullptr, y);
  else if (name == "atomics")
    one(atomic_kernel, y);
  else if (name == "order")
    HL_LAUNCH(order_kernel, 2, 34, 0, nullptr, y);
  else if (name == "indices")
    HL_LAUNCH(index_kernel, dim3(2, 1, 5), dim3(2, 3, 1), 0, nullptr, y);
  else
    return 2;
  std::printf("nothing\n");
  for (int i = 0; i < 70; ++i) std::printf("%d ", y[i]);
  std::printf("\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  simt::set_seed(static_cast<uint64_t>(std::atoi(argv[3])));
  try {
    return run(argv[1], std::string(argv[2]) == "right");
  } catch (const simt::Fault& fault) {
    std::printf("%s\n", fault.what());
  }
  return 0;
}
