// Statistics of the advantages of whole rows, taken when a row has just been written.
//
// Each row gives its count, sum, mean and squared deviations from its own mean; when all are done the mean of all
// is known, and the deviations of the rows from it are added (Chan et al. 1983, for all rows at once). Sums are
// double, in an order that depends on nothing but the sizes: same bits for every number of threads.
#pragma once
#include "isa_namespace.h"
#include "../core/estimator_args.h"
#include "magnitudes.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

enum Partial { kCount, kSum, kMean, kDeviations, kNonFinite, kFirstStep };

constexpr int64_t kDoubleLanes = 8;

static inline double add_lanes(double* lane) {
  for (int64_t width = kDoubleLanes / 2; width > 0; width /= 2) {
    for (int64_t j = 0; j < width; ++j) lane[j] += lane[j + width];
  }
  return lane[0];
}

static inline bool is_finite(double x) { return x - x == 0; }

template <class T>
struct Statistics {
  const StatisticsArgs& s;
  const Matrix& advantages;
  Matrix valid;  // or absent
  int64_t horizon;

  bool wanted() const { return s.priorities.data != nullptr || s.summary != nullptr; }

  // Calls body(advantages, valid or null, count, first step) for the runs of a row.
  template <class Body>
  void runs(int64_t row, const Body& body) const {
    alignas(64) T scratch[kRun];
    alignas(64) T scratch_valid[kRun];
    for (int64_t t = 0; t < horizon; t += kRun) {
      const int64_t count = horizon - t < kRun ? horizon - t : kRun;
      const T* x = load_along_time(advantages, row, t, count, scratch);
      body(x, valid.data != nullptr ? load_along_time(valid, row, t, count, scratch_valid) : nullptr, count, t);
    }
  }

  // Sum over the valid steps of a row of f(x), not finite where an x is not. A step that is not valid weighs 0: GCC 12 was
  // seen to miscompile a select in place of the product (double, AVX2).
  template <class F>
  double sum(int64_t row, const F& f) const {
    alignas(64) double lane[kDoubleLanes] = {};
    runs(row, [&](const T* x, const T* ok, int64_t count, int64_t) {
      int64_t i = 0;
      if (ok == nullptr) {
        for (; i + kDoubleLanes <= count; i += kDoubleLanes) {
          for (int64_t j = 0; j < kDoubleLanes; ++j) lane[j] += f(static_cast<double>(x[i + j]));
        }
      } else {
        for (; i + kDoubleLanes <= count; i += kDoubleLanes) {
          for (int64_t j = 0; j < kDoubleLanes; ++j) {
            lane[j] += f(static_cast<double>(x[i + j])) * (ok[i + j] != T(0) ? 1.0 : 0.0);
          }
        }
      }
      for (; i < count; ++i) {
        const double weight = ok == nullptr || ok[i] != T(0) ? 1.0 : 0.0;
        lane[i % kDoubleLanes] += f(static_cast<double>(x[i])) * weight;
      }
    });
    return add_lanes(lane);
  }

  void summarize(int64_t row, double* out) const {
    out[kNonFinite] = 0;
    out[kFirstStep] = -1;
    out[kCount] = valid.data == nullptr ? static_cast<double>(horizon) : sum(row, [](double) { return 1.0; });
    out[kSum] = sum(row, [](double x) { return x; });
    if (!is_finite(out[kSum])) return summarize_finite(row, out);
    out[kMean] = out[kCount] > 0 ? out[kSum] / out[kCount] : 0;
    const double mean = out[kMean];
    out[kDeviations] = sum(row, [mean](double x) { return (x - mean) * (x - mean); });
  }

  // Of a row that holds NaN or infinity: those are counted and left out.
  void summarize_finite(int64_t row, double* out) const {
    out[kCount] = out[kSum] = out[kDeviations] = 0;
    const auto each = [&](const auto& finite, const auto& other) {
      runs(row, [&](const T* x, const T* ok, int64_t count, int64_t t) {
        for (int64_t i = 0; i < count; ++i) {
          if (ok != nullptr && !(ok[i] != T(0))) continue;
          if (is_finite(static_cast<double>(x[i]))) {
            finite(static_cast<double>(x[i]));
          } else {
            other(t + i);
          }
        }
      });
    };
    each(
        [&](double x) {
          out[kCount] += 1;
          out[kSum] += x;
        },
        [&](int64_t t) {
          if (out[kNonFinite] == 0) out[kFirstStep] = static_cast<double>(t);
          out[kNonFinite] += 1;
        });
    const double mean = out[kMean] = out[kCount] > 0 ? out[kSum] / out[kCount] : 0;
    each([&](double x) { out[kDeviations] += (x - mean) * (x - mean); }, [](int64_t) {});
  }

  // The rows have been written, completely.
  void rows_done(int64_t row0, int64_t rows) const {
    if (!wanted()) return;
    for (int64_t row = row0; row < row0 + rows; ++row) {
      if (s.priorities.data != nullptr) {
        alignas(64) T scratch[kRun];
        const T total = sum_of_magnitudes(advantages, row, horizon, scratch);
        const T overflow = static_cast<T>(overflow_threshold(s.priorities.dtype));
        const T priority = priority_of(total, T(1), overflow);
        store_along_rows(s.priorities, row, 0, 1, &priority);
      }
      if (s.summary != nullptr) summarize(row, s.partials + row * kSummarySize);
    }
  }

  // After all rows. Where there are no steps nothing was done for any row.
  void finish(int64_t rows) const {
    if (horizon == 0 && s.priorities.data != nullptr) {
      const T zero = T(0);
      for (int64_t row = 0; row < rows; ++row) store_along_rows(s.priorities, row, 0, 1, &zero);
    }
    if (s.summary == nullptr) return;
    const int64_t known = horizon > 0 ? rows : 0;
    double count = 0, total = 0, deviations = 0, bad = 0, first_row = -1, first_step = -1;
    for (int64_t row = known - 1; row >= 0; --row) {
      const double* p = s.partials + row * kSummarySize;
      count += p[kCount];
      total += p[kSum];
      bad += p[kNonFinite];
      if (p[kNonFinite] > 0) {
        first_row = static_cast<double>(row);
        first_step = p[kFirstStep];
      }
    }
    const double mean = count > 0 ? total / count : 0;
    for (int64_t row = 0; row < known; ++row) {
      const double* p = s.partials + row * kSummarySize;
      deviations += p[kDeviations] + p[kCount] * (p[kMean] - mean) * (p[kMean] - mean);
    }
    const double all[kSummarySize] = {count, mean, deviations, bad, first_row, first_step};
    for (int64_t i = 0; i < kSummarySize; ++i) s.summary[i] = all[i];
  }
};

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
