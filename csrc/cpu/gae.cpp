#include "gae.h"

#include "departure_estimator.h"
#include "statistics.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

template <class T>
struct GaeFormula {
  static constexpr int kRatioShift = 0;
  static constexpr bool kLean = true;

  template <class Run>
  Affine<T> step(const Run& run, int64_t i, const Discount<T>& k, bool continues) const {
    return gae_step(k, run.reward[i], run.baseline[i], run.bootstrap(i), continues);
  }
  template <class Run>
  T idle(const Run&, int64_t) const {
    return T(0);
  }
};

template <class T>
struct GaeEstimator : DepartureEstimator<T, GaeFormula<T>> {
  using Base = DepartureEstimator<T, GaeFormula<T>>;
  const Statistics<T>& statistics;

  GaeEstimator(const GaeParams& p, bool lanes, const Statistics<T>& wanted)
      : Base(p.in, GaeFormula<T>{}, p.advantages, p.returns, lanes), statistics(wanted) {}

  void emit_flat(int64_t row, int64_t rows, const T* y, T* scratch) const {
    Base::emit_flat(row, rows, y, scratch);
    statistics.rows_done(row, rows);
  }
  void emit_time(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>& s) const {
    Base::emit_time(row, t, count, y, s);
    if (t == 0) statistics.rows_done(row, 1);
  }
  void emit_rows(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>& s) const {
    Base::emit_rows(row, t, count, y, s);
    if (t == 0) statistics.rows_done(row, count);
  }
};

template <class T>
void run(const GaeParams& p) {
  const bool lanes = rows_are_lanes(p.in.rewards);
  const Statistics<T> statistics{p.statistics, p.advantages, p.in.valid, p.in.horizon};
  const GaeEstimator<T> estimator(p, lanes, statistics);
  const int64_t bytes = p.in.rows * p.in.horizon * 5 * static_cast<int64_t>(sizeof(T));
  scan_from_last<true, T>(estimator, p.in.rows, p.in.horizon, lanes, bytes);
  statistics.finish(p.in.rows);
}

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
void gae(const GaeParams& p) {
  if (p.in.dtype == DType::f64) {
    run<double>(p);
  } else {
    run<float>(p);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
