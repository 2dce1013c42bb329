#include "sample_segments.cuh"

#include "launchers.h"

namespace hotloop {
namespace {

using namespace device;

constexpr int64_t kTotalsBytes = 64;

int64_t padded(int64_t segments) {  // the network sorts powers of two
  int64_t size = 2;
  while (size < segments) size *= 2;
  return size;
}

int64_t sum_runs(int64_t segments) { return (segments + kSumBlock - 1) / kSumBlock; }

struct Scratch {
  Totals* totals;
  double* sums;
  Key* keys;

  Scratch(void* memory, int64_t segments)
      : totals(static_cast<Totals*>(memory)),
        sums(reinterpret_cast<double*>(static_cast<char*>(memory) + kTotalsBytes)),
        keys(reinterpret_cast<Key*>(sums + sum_runs(segments) + sum_runs(segments) % 2)) {}
};

unsigned draw_blocks(int64_t count) { return blocks_for(count, kDrawThreads); }

cudaError_t sort_keys(Key* keys, int64_t size, const Launch& launch) {
  const int local = size < kSorted ? static_cast<int>(size) : kSorted;
  const unsigned blocks = blocks_for(size, local);
  HL_LAUNCH(sort_block_kernel, blocks, kSortThreads, 0, launch.stream, keys, local, int64_t{2}, int64_t{local});
  cudaError_t error = cudaGetLastError();
  for (int64_t run = 2 * int64_t{local}; error == cudaSuccess && run <= size; run *= 2) {
    for (int64_t distance = run / 2; error == cudaSuccess && distance >= local; distance /= 2) {
      HL_LAUNCH(sort_step_kernel, blocks_for(size / 2, kSortThreads), kSortThreads, 0, launch.stream, keys,
                size / 2, run, distance);
      error = cudaGetLastError();
    }
    if (error != cudaSuccess) return error;
    HL_LAUNCH(sort_block_kernel, blocks, kSortThreads, 0, launch.stream, keys, local, run, run);
    error = cudaGetLastError();
  }
  return error;
}

cudaError_t add_sums(const Draw& d, double floor, bool cumulative, const Scratch& scratch, const Launch& launch) {
  const int64_t runs = sum_runs(d.segments);
  HL_LAUNCH(sum_runs_kernel, draw_blocks(runs), kDrawThreads, 0, launch.stream, d, floor, scratch.sums);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  HL_LAUNCH(add_sums_kernel, 1, kDrawThreads, 0, launch.stream, scratch.sums, runs, cumulative, scratch.totals);
  return cudaGetLastError();
}

cudaError_t successive(const Draw& d, const Scratch& scratch, const Launch& launch) {
  cudaError_t error = add_sums(d, 0.0, false, scratch, launch);
  if (error != cudaSuccess) return error;
  const int64_t size = padded(d.segments);
  HL_LAUNCH(race_kernel, draw_blocks(size), kDrawThreads, 0, launch.stream, d, scratch.keys, size);
  error = cudaGetLastError();
  if (error == cudaSuccess) error = sort_keys(scratch.keys, size, launch);
  if (error != cudaSuccess) return error;
  HL_LAUNCH(first_arrivals_kernel, draw_blocks(d.count), kDrawThreads, 0, launch.stream, d,
            static_cast<const Key*>(scratch.keys), static_cast<const Totals*>(scratch.totals));
  return cudaGetLastError();
}

cudaError_t with_replacement(const Draw& d, const Scratch& scratch, const Launch& launch) {
  const cudaError_t error = add_sums(d, kPriorityFloor, true, scratch, launch);
  if (error != cudaSuccess) return error;
  HL_LAUNCH(replacement_kernel, draw_blocks(d.count), kDrawThreads, 0, launch.stream, d,
            static_cast<const double*>(scratch.sums), static_cast<const Totals*>(scratch.totals));
  return cudaGetLastError();
}

cudaError_t systematic(const Draw& d, const Scratch& scratch, const Launch& launch) {
  const int64_t size = padded(d.segments);
  HL_LAUNCH(inclusion_kernel, 1, kDrawThreads, 0, launch.stream, d, scratch.sums, scratch.totals);
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  HL_LAUNCH(order_kernel, draw_blocks(size), kDrawThreads, 0, launch.stream, d, scratch.keys, size);
  error = cudaGetLastError();
  if (error == cudaSuccess) error = sort_keys(scratch.keys, size, launch);
  if (error != cudaSuccess) return error;
  HL_LAUNCH(systematic_kernel, 1, kDrawThreads, 0, launch.stream, d, static_cast<const Key*>(scratch.keys),
            static_cast<const Totals*>(scratch.totals));
  return cudaGetLastError();
}

}  // namespace

int64_t sample_segments_scratch_bytes(const SampleSegmentsParams& p) {
  if (p.count == 0 || p.law == SamplingLaw::sequential) return 0;
  if (p.law == SamplingLaw::permutation) return p.segments * static_cast<int64_t>(sizeof(int32_t));
  const int64_t sums = kTotalsBytes + (sum_runs(p.segments) + 1) * static_cast<int64_t>(sizeof(double));
  if (p.law == SamplingLaw::with_replacement) return sums;
  return sums + padded(p.segments) * static_cast<int64_t>(sizeof(Key));
}

cudaError_t launch_sample_segments(const SampleSegmentsParams& p, const Launch& launch) {
  if (p.count == 0) return cudaSuccess;
  const Draw d(p);
  if (p.law == SamplingLaw::sequential) {
    HL_LAUNCH(sequential_kernel, draw_blocks(p.count), kDrawThreads, 0, launch.stream, d);
    return cudaGetLastError();
  }
  if (launch.scratch == nullptr) return cudaErrorInvalidValue;
  if (p.law == SamplingLaw::permutation) {
    HL_LAUNCH(permutation_kernel, 1, kDrawThreads, 0, launch.stream, d, static_cast<int32_t*>(launch.scratch));
    return cudaGetLastError();
  }
  const Scratch scratch(launch.scratch, p.segments);
  switch (p.law) {
    case SamplingLaw::successive: return successive(d, scratch, launch);
    case SamplingLaw::with_replacement: return with_replacement(d, scratch, launch);
    default: return systematic(d, scratch, launch);
  }
}

}  // namespace hotloop
