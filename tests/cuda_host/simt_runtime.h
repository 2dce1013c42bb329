// What a launcher needs of the CUDA runtime, and the launch itself.
#pragma once
#include <cstddef>
#include <functional>

#include "simt_block.h"

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = void*;

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
static_assert(sizeof(dim3) == sizeof(simt::Index), "one is read as the other");

static inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid launch";
}
static inline cudaError_t cudaGetLastError() { return cudaSuccess; }
static inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
static inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }

namespace simt {

static inline Index index_of(dim3 d) { return {d.x, d.y, d.z}; }

template <class Body>
static inline void launch(const char* name, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
                          const Body& body) {
  run_grid(
      name, index_of(grid), index_of(block), shared_bytes,
      [](const void* context) { (*static_cast<const Body*>(context))(); }, &body);
}

}  // namespace simt
