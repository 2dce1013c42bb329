// Threads: OpenMP over independent blocks, serial below a grain. torch and hotloop share one OpenMP runtime, so
// torch.set_num_threads governs these loops too.
#pragma once
#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "forked_child.h"
#include "isa_namespace.h"

namespace hotloop {

// Below this many bytes moved, waking a second thread costs more than it saves (about 5 to 10 us a region).
constexpr int64_t kSerialGrainBytes = int64_t{1} << 18;

namespace HL_ISA_NAMESPACE {

// Runs body(i) for i in [0, count). Results must not depend on which thread runs a block.
template <class Body>
static inline void parallel_blocks(int64_t count, int64_t bytes, const Body& body) {
#if defined(_OPENMP)
  if (count > 1 && bytes >= kSerialGrainBytes && !omp_in_parallel() && omp_get_max_threads() > 1 &&
      has_thread_pool()) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
#endif
  (void)bytes;
  for (int64_t i = 0; i < count; ++i) body(i);
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
