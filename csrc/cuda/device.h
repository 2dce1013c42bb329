// What nvcc and the host runner of the tests (tests/cuda_host) spell differently. Kernels are compiled by both.
#pragma once
#define HL_ISA_NAMESPACE device  // of core/half.h

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define HL_DEVICE __device__ __forceinline__
#define HL_EITHER __host__ __device__ __forceinline__
// What the compiler of device code may take for granted.
#if defined(__CUDA_ARCH__)
#define HL_ASSUME(truth) __builtin_assume(truth)
#else
#define HL_ASSUME(truth)
#endif
#define HL_UNROLL _Pragma("unroll")
#define HL_ROLLED _Pragma("unroll 1")
// An array that the threads of a block share; as a parameter: template <class Array>, Array& name.
#define HL_SHARED(T, name, count) __shared__ T name[count]
#define HL_DYNAMIC_SHARED(T, name)                            \
  extern __shared__ __align__(16) unsigned char name##_raw[]; \
  T* const name = reinterpret_cast<T*>(name##_raw)
#define HL_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)      \
  (kernel)<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)

#else  // the runner's simt.h was included by the compiler's command line

#define HL_DEVICE inline
#define HL_EITHER inline
#define HL_ASSUME(truth)
#define HL_UNROLL
#define HL_ROLLED
#define HL_SHARED(T, name, count)                                  \
  static ::simt::SharedArray<T, count> name##_of_the_block(#name); \
  auto& name = name##_of_the_block.enter()
#define HL_DYNAMIC_SHARED(T, name)                            \
  static ::simt::DynamicShared<T> name##_of_the_block(#name); \
  auto& name = name##_of_the_block.enter()
#define HL_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                    \
  ::simt::launch(#kernel, (grid), (block), (shared_bytes), (stream), [&] { (kernel)(__VA_ARGS__); })

#endif

#include <cstddef>
#include <cstdint>

namespace hotloop {
namespace device {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

HL_DEVICE int64_t global_thread() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

// Blocks of `size` that cover `count`; 2^31 - 1 are allowed along x, which no tensor in memory exceeds.
inline unsigned blocks_for(int64_t count, int64_t size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

}  // namespace device
}  // namespace hotloop
