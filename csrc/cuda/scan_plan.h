// Which kernel scans rows of which shape: one table, read from the top, the first line that fits wins.
#pragma once
#include <cstdint>

namespace hotloop {

enum class ScanPath {
  lanes,   // a thread a row, neighbouring rows contiguous: time-major memory
  packed,  // several short rows a warp, a lane a step, handed from lane to lane
  tile,    // 32 rows a block: coefficients into shared memory along time, then a thread a row walks it
  warp,    // a warp a row: scan by shuffles
  block,   // a block a row: warps scan, their results are composed
  chunks,  // several blocks a row: sums of chunks, carries, then every chunk anew
};
constexpr int kScanPaths = 6;

static inline const char* scan_path_name(ScanPath path) {
  switch (path) {
    case ScanPath::lanes: return "lanes";
    case ScanPath::packed: return "packed";
    case ScanPath::tile: return "tile";
    case ScanPath::warp: return "warp";
    case ScanPath::block: return "block";
    case ScanPath::chunks: return "chunks";
  }
  return "?";
}

// Exact paths add in the order of the CPU: the same bits. The others compose steps in a tree whose shape depends on the
// sizes alone: the same bits in every run and on every device, but other roundings than the CPU's.
constexpr bool is_exact(ScanPath path) {
  return path == ScanPath::lanes || path == ScanPath::packed || path == ScanPath::tile;
}

struct ScanRule {
  ScanPath path;
  bool rows_touch;  // only where neighbouring rows are contiguous and neighbouring steps are not
  int64_t rows_from;  // rows, at least
  int64_t horizon_from, horizon_to;  // steps, inclusive
};

constexpr int64_t kAny = INT64_MAX;
constexpr int64_t kPackedSteps = 16;
constexpr int64_t kChunkSteps = 4096;

// Where lines meet is where two kernels took the same time on an H200, see docs/performance.md. Its 132 multiprocessors
// take from 4,096 warps on what a row's waits leave free; below, more threads a row are faster.
// clang-format off
constexpr ScanRule kScanRules[] = {
    // path            rows touch  rows from  T from  T to
    {ScanPath::lanes,  true,       1024,      1,      kAny},
    {ScanPath::packed, false,      1,         1,      kPackedSteps},
    {ScanPath::tile,   false,      8192,      1,      64},
    {ScanPath::warp,   false,      1,         1,      256},
    {ScanPath::warp,   false,      4096,      1,      kAny},
    {ScanPath::block,  false,      512,       1,      kAny},
    {ScanPath::block,  false,      1,         1,      2 * kChunkSteps},
    {ScanPath::chunks, false,      1,         1,      kAny},
};
// clang-format on
// Where only exact paths may run and no line above fits.
constexpr ScanPath kExactOtherwise = ScanPath::tile;

static inline ScanPath choose_scan_path(int64_t rows, int64_t horizon, bool rows_touch, bool exact) {
  for (const ScanRule& rule : kScanRules) {
    if (exact && !is_exact(rule.path)) continue;
    if (rule.rows_touch && !rows_touch) continue;
    if (rows < rule.rows_from || horizon < rule.horizon_from || horizon > rule.horizon_to) continue;
    return rule.path;
  }
  return kExactOtherwise;
}

static inline int64_t scan_chunks(int64_t horizon) { return (horizon + kChunkSteps - 1) / kChunkSteps; }

}  // namespace hotloop
