#include "vtrace.h"

#include "departure_estimator.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

template <class T>
struct VtraceFormula {
  static constexpr int kRatioShift = 0;
  static constexpr bool kLean = true;
  T rho_clip, c_clip;

  template <class Run>
  Affine<T> step(const Run& run, int64_t i, const Discount<T>& k, bool continues) const {
    return vtrace_step(k, rho_clip, c_clip, run.reward[i], run.baseline[i], run.bootstrap(i), run.ratio[i],
                       continues);
  }
  template <class Run>
  T idle(const Run&, int64_t) const {
    return T(0);
  }
};

// Besides the targets: min(w, pg_rho_clip) * (TD error + gamma * lambda * (target - V) of the next step).
template <class T>
struct VtraceEstimator : DepartureEstimator<T, VtraceFormula<T>> {
  using Base = DepartureEstimator<T, VtraceFormula<T>>;
  Matrix pg_advantages;
  T pg_rho_clip;

  VtraceEstimator(const VtraceParams& p, bool lanes)
      : Base(p.in, {static_cast<T>(p.rho_clip), static_cast<T>(p.c_clip)}, Matrix{}, p.targets, lanes),
        pg_advantages(p.pg_advantages),
        pg_rho_clip(static_cast<T>(p.pg_rho_clip)) {
    this->is_flat = this->is_flat && this->flat_or_absent(p.pg_advantages);
  }

  // After the last step y_next is 0, so that it needs no loop of its own.
  template <bool kCut, class Run, class Discounts>
  static void advantages(const Run& run, const Discounts& discounts, int64_t count, const T* __restrict y_next,
                         T pg_rho_clip, T* __restrict out) {
    HL_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) {
      const Discount<T>& k = discounts.at(i);
      const T delta = td_error(k, run.reward[i], run.baseline[i], run.bootstrap(i));
      const T decay = run.ends(i) ? T(0) : k.decay;
      const T advantage = clip_above(run.ratio[i], pg_rho_clip) * affine<kCut>(decay, y_next[i], delta);
      out[i] = run.is_valid(i) ? advantage : T(0);
    }
  }

  // As the engine scans: with cuts only where the plain formula gives what is not finite.
  template <class Discounts>
  void advantages_of(const DepartureRun<T>& loaded, const Discounts& discounts, int64_t count, const T* y_next,
                     T* out) const {
    this->reader.template with_steps<true>(
        loaded, [&](const auto& run) { advantages<false>(run, discounts, count, y_next, pg_rho_clip, out); });
    if (all_finite(out, count)) return;
    this->reader.template with_steps<false>(
        loaded, [&](const auto& run) { advantages<true>(run, discounts, count, y_next, pg_rho_clip, out); });
  }

  void emit_flat(int64_t row, int64_t rows, const T* y, T* scratch) const {
    Base::emit_flat(row, rows, y, scratch);
    const OneDiscount<T> discount{discount_of_row<T>(this->d.discounts, row)};
    const DepartureRun<T> whole = this->reader.load_flat(row);
    T* out = row_of<T>(pg_advantages, row);
    advantages_of(whole, discount, rows * this->d.horizon - 1, y + 1, out);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = (r + 1) * this->d.horizon - 1;
      T next, flags[3];
      const DepartureRun<T> last = this->reader.last_of_flat(whole, row + r, i, &next);
      advantages<true>(this->reader.single(last, flags), discount, 1, kZeros<T>, pg_rho_clip, out + i);
    }
  }

  template <bool kTime>
  void emit_both(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>& s) const {
    Base::template emit<kTime>(row, t, count, y, s);
    const bool last = t + (kTime ? count : 1) == this->d.horizon;
    const T* y_next = shifted_later<kTime>(row, count, last, y, s.run[9], s);
    const DepartureRun<T> loaded = this->reader.template load<kTime>(row, t, count, s);
    T* place = direct<kTime, T>(pg_advantages, row, t);
    // The run of the baseline's scratch is free: it is the values.
    T* out = place != nullptr ? place : s.run[6];
    with_discounts<kTime>(this->d.discounts, row, count, s.run[10], s.run[11],
                          [&](const auto& discounts) { advantages_of(loaded, discounts, count, y_next, out); });
    if (place == nullptr) store_run_at<kTime>(pg_advantages, row, t, count, out);
  }
  void emit_time(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>& s) const {
    emit_both<true>(row, t, count, y, s);
  }
  void emit_rows(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>& s) const {
    emit_both<false>(row, t, count, y, s);
  }
};

template <class T>
void run(const VtraceParams& p) {
  const bool lanes = rows_are_lanes(p.in.rewards);
  const VtraceEstimator<T> estimator(p, lanes);
  const int64_t bytes = p.in.rows * p.in.horizon * 6 * static_cast<int64_t>(sizeof(T));
  scan_from_last<true, T>(estimator, p.in.rows, p.in.horizon, lanes, bytes);
}

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
void vtrace(const VtraceParams& p) {
  if (p.in.dtype == DType::f64) {
    run<double>(p);
  } else {
    run<float>(p);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
