#include "statistics.cuh"

#include "launchers.h"

namespace hotloop {

cudaError_t launch_statistics(const StatisticsArgs& s, const Matrix& advantages, const Matrix& valid, int64_t rows,
                              int64_t horizon, bool is_double, const Launch& launch) {
  using namespace device;
  if (s.priorities.data != nullptr) {
    RowPrioritiesParams p;
    p.rows = rows;
    p.horizon = horizon;
    p.advantages = advantages;
    p.priorities = s.priorities;
    const cudaError_t error = launch_row_priorities(p, launch);
    if (error != cudaSuccess) return error;
  }
  if (s.summary == nullptr) return cudaSuccess;
  const RowStatistics of_rows{Array(advantages), Array(valid), rows, horizon, s.partials};
  const int64_t known = horizon > 0 ? rows : 0;
  if (known > 0) {
    const unsigned blocks = blocks_for(rows, kSummaryThreads / kDoubleLanes);
    if (is_double) {
      HL_LAUNCH((summarize_rows_kernel<double>), blocks, kSummaryThreads, 0, launch.stream, of_rows);
    } else {
      HL_LAUNCH((summarize_rows_kernel<float>), blocks, kSummaryThreads, 0, launch.stream, of_rows);
    }
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  HL_LAUNCH(summarize_all_kernel, 1, kFinishThreads, 0, launch.stream, static_cast<const double*>(s.partials),
            known, s.summary);
  return cudaGetLastError();
}

}  // namespace hotloop
