// Compiles CUDA kernel bodies with a host compiler and runs them: one fiber a thread, blocks one after the other.
//
// The compiler includes this file first (-include), so the sources under csrc/cuda stay as nvcc sees them. A run
// ends with simt::Fault where a GPU would hang, read garbage or be right by luck: at barriers and warp operations
// that not all threads reach, at shared memory that is read before it is written or without a barrier between writer
// and reader, at launches beyond the limits of a device. Out-of-bounds accesses of global memory are for
// AddressSanitizer. The order of blocks, warps and threads is shuffled by a seed.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "simt_block.h"
#include "simt_runtime.h"
#include "simt_shared.h"
#include "simt_warp.h"

#define HL_CUDA_HOST 1

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define threadIdx (::simt::this_thread())
#define blockIdx (::simt::this_block())
#define blockDim (::simt::block_size())
#define gridDim (::simt::grid_size())
#define warpSize 32

// Call sites tell one barrier from another: threads that wait at different ones have diverged.
#define SIMT_TEXT_OF(x) #x
#define SIMT_TEXT(x) SIMT_TEXT_OF(x)
#define SIMT_SITE __FILE__ ":" SIMT_TEXT(__LINE__)
#define __syncthreads() ::simt::block_barrier(SIMT_SITE)
#define __syncwarp(...) ::simt::WarpBarrier{SIMT_SITE}(__VA_ARGS__)
#define __shfl_sync(...) ::simt::shuffle(::simt::Kind::index, SIMT_SITE, __VA_ARGS__)
#define __shfl_up_sync(...) ::simt::shuffle(::simt::Kind::up, SIMT_SITE, __VA_ARGS__)
#define __shfl_down_sync(...) ::simt::shuffle(::simt::Kind::down, SIMT_SITE, __VA_ARGS__)
#define __shfl_xor_sync(...) ::simt::shuffle(::simt::Kind::exclusive_or, SIMT_SITE, __VA_ARGS__)
#define __ballot_sync(mask, predicate) ::simt::ballot(SIMT_SITE, mask, predicate)
#define __any_sync(mask, predicate) (::simt::ballot(SIMT_SITE, mask, predicate) != 0)
#define __all_sync(mask, predicate) (::simt::ballot(SIMT_SITE, mask, predicate) == (mask))
#define __trap() ::simt::fault("the kernel called __trap()")

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T>
static inline T __ldg(const T* p) {
  return *p;
}

// Atomic as they stand: a fiber gives way at barriers and warp operations only.
template <class T>
static inline T atomicAdd(T* p, std::common_type_t<T> x) {
  const T before = *p;
  *p = before + x;
  return before;
}
template <class T>
static inline T atomicMax(T* p, std::common_type_t<T> x) {
  const T before = *p;
  *p = before < x ? x : before;
  return before;
}
template <class T>
static inline T atomicMin(T* p, std::common_type_t<T> x) {
  const T before = *p;
  *p = x < before ? x : before;
  return before;
}
template <class T>
static inline T atomicCAS(T* p, std::common_type_t<T> compare, std::common_type_t<T> x) {
  const T before = *p;
  if (before == compare) *p = x;
  return before;
}
template <class T>
static inline T atomicAdd(simt::SharedPointer<T> p, std::common_type_t<T> x) {
  const T before = p.atomic_value();
  p.atomic_value() = before + x;
  return before;
}
