// cudaError_t and cudaStream_t: the runtime's, or those of the host runner (tests/cuda_host), which the compiler's
// command line includes.
#pragma once
#if !defined(HL_CUDA_HOST)
#include <cuda_runtime_api.h>
#endif
