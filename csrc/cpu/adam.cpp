#include "adam.h"

#include "isa_namespace.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

// Elements that are fetched while as many are computed: with four arrays that come from memory and a root and a
// quotient for each number, the processor looks too short a way ahead by itself.
constexpr int64_t kAhead = 256;
constexpr int64_t kScratch = 512;  // elements of a run that is not contiguous, at a time

template <bool kL2, class T>
void update(const AdamRates<T>& rates, int64_t count, T* __restrict p, const T* __restrict g, T* __restrict m,
            T* __restrict v) {
  const AdamRates<T> r = rates;  // a copy, which no write below can change
  for (int64_t start = 0; start < count; start += kAhead) {
    const int64_t end = start + kAhead < count ? start + kAhead : count;
    const int64_t fetched = end + kAhead < count ? end + kAhead : count;
    for (int64_t i = end; i < fetched; i += 64 / static_cast<int64_t>(sizeof(T))) {
      HL_PREFETCH_WRITE(p + i);
      HL_PREFETCH_READ(g + i);
      HL_PREFETCH_WRITE(m + i);
      HL_PREFETCH_WRITE(v + i);
    }
    HL_INDEPENDENT
    for (int64_t i = start; i < end; ++i) adam_update<kL2>(r, g[i], p + i, m + i, v + i);
  }
}

template <class T>
void update_run(const AdamRates<T>& rates, int64_t count, T* p, const T* g, T* m, T* v) {
  if (rates.l2 != T(0)) {
    update<true>(rates, count, p, g, m, v);
  } else {
    update<false>(rates, count, p, g, m, v);
  }
}

template <class T>
void run_one(const JointRun<kAdamViews>& run, const AdamRates<T>& rates) {
  T* at[kAdamViews];
  bool contiguous = true;
  for (int i = 0; i < kAdamViews; ++i) {
    at[i] = reinterpret_cast<T*>(run.data[i]);
    contiguous = contiguous && run.stride[i] == 1;
  }
  if (contiguous) {
    update_run(rates, run.count, at[kParameter], at[kGradient], at[kMean], at[kSquare]);
    return;
  }
  alignas(64) T scratch[kAdamViews][kScratch];
  for (int64_t start = 0; start < run.count; start += kScratch) {
    const int64_t count = run.count - start < kScratch ? run.count - start : kScratch;
    for (int i = 0; i < kAdamViews; ++i) {
      const T* from = at[i] + start * run.stride[i];
      for (int64_t j = 0; j < count; ++j) scratch[i][j] = from[j * run.stride[i]];
    }
    update_run(rates, count, scratch[kParameter], scratch[kGradient], scratch[kMean], scratch[kSquare]);
    for (int i : {kParameter, kMean, kSquare}) {
      T* to = at[i] + start * run.stride[i];
      for (int64_t j = 0; j < count; ++j) to[j * run.stride[i]] = scratch[i][j];
    }
  }
}

}  // namespace

void adam(const AdamParams& p) {
  parallel_blocks(p.count, p.bytes, [&](int64_t i) {
    const int64_t tensor = p.runs[i].tensor;
    if (p.dtypes[tensor] == DType::f64) {
      run_one(p.runs[i].at, p.rates64[tensor]);
    } else {
      run_one(p.runs[i].at, p.rates32[tensor]);
    }
  });
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
