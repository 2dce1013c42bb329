#include "return_moments.h"

#include "flat_runs.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

static_assert(kMomentsBlock % kRun == 0, "runs do not cross blocks");

// What two passes need of a run: 1 or 0 for each sample, returns and advantages, 0 where a sample does not count.
template <class T>
struct Samples {
  Run<T> keep, values, advantages;

  void load(const ReturnMomentsParams& p, int64_t first, int64_t count) {
    const T* a = load_flat(p.advantages, p.columns, first, count, advantages);
    const T* v = load_flat(p.values, p.columns, first, count, values);
    if (p.valid.data == nullptr) {
      for (int64_t i = 0; i < count; ++i) keep.at[i] = T(1);
    } else {
      load_flags(p.valid, p.columns, first, count, keep);
    }
    for (int64_t i = 0; i < count; ++i) {
      const bool counts = keep.at[i] != T(0);
      values.at[i] = counts ? a[i] + v[i] : T(0);
      advantages.at[i] = counts ? a[i] : T(0);
    }
  }

  void deviate(int64_t count, T mean_return, T mean_advantage) {
    for (int64_t i = 0; i < count; ++i) {
      const bool counts = keep.at[i] != T(0);
      const T r = values.at[i] - mean_return, a = advantages.at[i] - mean_advantage;
      values.at[i] = counts ? r * r : T(0);
      advantages.at[i] = counts ? a * a : T(0);
    }
  }
};

template <class T, class Prepare>
void sum(const ReturnMomentsParams& p, bool counted, double* sums, const Prepare& prepare) {
  const int64_t samples = p.rows * p.columns, blocks = (samples + kMomentsBlock - 1) / kMomentsBlock;
  parallel_blocks(blocks, samples * 4 * static_cast<int64_t>(sizeof(T)), [&](int64_t block) {
    alignas(64) double lanes[kMomentsSums][kSumLanes] = {};
    const int64_t end = (block + 1) * kMomentsBlock < samples ? (block + 1) * kMomentsBlock : samples;
    Samples<T> run;
    for (int64_t first = block * kMomentsBlock; first < end; first += kRun) {
      const int64_t count = end - first < kRun ? end - first : kRun;
      run.load(p, first, count);
      prepare(run, count);
      if (!counted) add_run(run.keep.at, count, lanes[0]);
      add_run(run.values.at, count, lanes[1]);
      add_run(run.advantages.at, count, lanes[2]);
    }
    for (int64_t k = 0; k < kMomentsSums; ++k) p.partial[block * kMomentsSums + k] = reduce_lanes(lanes[k]);
  });
  for (int64_t k = 0; k < kMomentsSums; ++k) {
    sums[k] = 0;
    for (int64_t block = 0; block < blocks; ++block) sums[k] += p.partial[block * kMomentsSums + k];
  }
}

template <class T>
void run(const ReturnMomentsParams& p) {
  double sums[kMomentsSums], squares[kMomentsSums];
  const bool all = p.valid.data == nullptr;
  sum<T>(p, all, sums, [](Samples<T>&, int64_t) {});
  if (all) sums[0] = static_cast<double>(p.rows * p.columns);
  const double share = sums[0] > 1 ? sums[0] : 1;
  const double mean_return = sums[1] / share, mean_advantage = sums[2] / share;
  sum<T>(p, true, squares, [&](Samples<T>& run, int64_t count) {
    run.deviate(count, static_cast<T>(mean_return), static_cast<T>(mean_advantage));
  });
  const double found[kMoments] = {sums[0], mean_return, squares[1], mean_advantage, squares[2]};
  std::memcpy(p.moments, found, sizeof found);
}

}  // namespace

void return_moments(const ReturnMomentsParams& p) {
  if (p.values.dtype == DType::f64) {
    run<double>(p);
  } else {
    run<float>(p);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
