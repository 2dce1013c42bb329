// How an op is launched: on which stream, in which order of additions, with which memory to work in.
#pragma once
#include "runtime.h"
#include "scan_plan.h"

namespace hotloop {

struct LaunchOptions {
  bool exact = false;  // only paths that give the CPU's bits
  int forced = -1;     // a ScanPath, for tests: whatever the shape
};

struct Launch {
  cudaStream_t stream = nullptr;
  LaunchOptions options;
  void* scratch = nullptr;  // as much as scan_scratch_bytes asks for
};

static inline ScanPath scan_path(int64_t rows, int64_t horizon, bool rows_touch, const LaunchOptions& options) {
  if (options.forced >= 0) return static_cast<ScanPath>(options.forced);
  return choose_scan_path(rows, horizon, rows_touch, options.exact);
}

constexpr int64_t kSegmentBytes = 8;  // two numbers of float

// The sums of chunks, where a shape needs them.
static inline int64_t scan_scratch_bytes(int64_t rows, int64_t horizon, const LaunchOptions& options) {
  if (scan_path(rows, horizon, false, options) != ScanPath::chunks) return 0;
  return rows * scan_chunks(horizon) * kSegmentBytes;
}

}  // namespace hotloop
