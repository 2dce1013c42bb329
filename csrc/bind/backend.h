// The bindings of the ops are compiled twice: into hotloop._core, where they run the kernels of csrc/cpu, and into
// hotloop._cuda (HL_BIND_CUDA), where they launch those of csrc/cuda. Arguments, checks and messages are the same.
#pragma once
#include "tensor_arg.h"

#if defined(HL_BIND_CUDA)

#include "../cuda/launchers.h"
#include "cuda_call.h"

// `in` is the op's EstimatorInputs; `arrays`: how many matrices the op moves.
#define HL_RUN_ESTIMATOR(kernel, in, arrays, p)                                               \
  run_on_device((in).op(), scan_scratch_bytes((in).rows(), (in).horizon(), launch_options()), \
                [&](const Launch& launch) { return launch_##kernel(p, launch); })
#define HL_RUN(kernel, name, bytes, p)                                                     \
  run_on_device(name, 0, [&](const Launch& launch) { return launch_##kernel(p, launch); })
// For kernels that need memory to work in on a device: `scratch` bytes.
#define HL_RUN_WITH(scratch, kernel, name, bytes, p)                                             \
  run_on_device(name, scratch, [&](const Launch& launch) { return launch_##kernel(p, launch); })

#else

#define HL_RUN_ESTIMATOR(kernel, in, arrays, p) run_kernel((in).bytes(arrays), [&] { kernel(p); })
#define HL_RUN_WITH(scratch, kernel, name, bytes, p) HL_RUN(kernel, name, bytes, p)
#define HL_RUN(kernel, name, bytes, p) run_kernel(bytes, [&] { kernel(p); })

#endif
