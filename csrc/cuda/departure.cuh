// One step of departure-indexed inputs.
#pragma once
#include "discounts.cuh"

namespace hotloop {
namespace device {

template <class T>
struct DepartureStep {
  T reward, value, baseline, bootstrap, ratio;
  bool valid, ends, continues;  // continues: no episode ends here, nor does the row
};

// kRatioShift: 1 where a step needs the ratio of the next step. An absent input is 0.
template <class T, int kRatioShift>
struct DepartureInputs {
  int64_t horizon;
  Array rewards, values, baseline, terminated, truncated, truncation_values, valid, importance, last_values;
  Discounts<T> discounts;
  bool baseline_is_values;

  explicit DepartureInputs(const DepartureArgs& d)
      : horizon(d.horizon),
        rewards(d.rewards),
        values(d.values),
        baseline(d.baseline),
        terminated(d.terminated),
        truncated(d.truncated),
        truncation_values(d.truncation_values),
        valid(d.valid),
        importance(d.importance),
        last_values(d.last_values),
        discounts(d.discounts),
        baseline_is_values(same_view(d.baseline, d.values)) {}

  static bool same_view(const Matrix& a, const Matrix& b) {
    return a.data == b.data && a.dtype == b.dtype && a.row_stride == b.row_stride &&
           a.time_stride == b.time_stride;
  }

  template <class Inputs, class Visit>
  HL_EITHER static void arrays(Inputs& in, Visit& visit) {
    visit.required(in.rewards);
    visit.numbers(in.values, in.baseline, in.truncation_values, in.importance);
    visit.flags(in.terminated, in.truncated, in.valid);
    visit.columns(in.last_values);
    visit.discounts(in.discounts);
  }

  // What is given is read whether a flag asks for it or not: a load that waits for a flag comes a latency later.
  template <class I>
  HL_DEVICE DepartureStep<T> load(I row, I t) const {
    DepartureStep<T> s;
    const bool is_terminated = flag_or<T>(terminated, row, t, false);
    const bool is_truncated = flag_or<T>(truncated, row, t, false);
    s.valid = flag_or<T>(valid, row, t, true);
    s.ends = is_terminated | is_truncated;
    s.continues = !s.ends & (t + 1 < static_cast<I>(horizon));
    s.reward = load_or<T>(rewards, row, t, T(0));
    s.value = load_or<T>(values, row, t, T(0));
    s.baseline = baseline_is_values ? s.value : load_or<T>(baseline, row, t, T(0));
    const T beyond = load_or<T>(truncation_values, row, t, T(0));
    const T later = load_later<T>(values, last_values, horizon, row, t);
    s.bootstrap = is_terminated ? T(0) : is_truncated ? beyond : later;
    s.ratio = kRatioShift != 0 ? load_later<T>(importance, Array{}, horizon, row, t)
                               : load_or<T>(importance, row, t, T(0));
    return s;
  }
};

// The estimator that a formula makes. A formula has
//   kRatioShift
//   step(s, k)    the coefficients of a step
//   idle(s)       the result of a step that is not valid
template <class T, class Formula>
struct DepartureEstimator {
  using Number = T;
  static constexpr bool kForwards = false;
  static constexpr bool kCut = true;

  int64_t rows, horizon;
  DepartureInputs<T, Formula::kRatioShift> in;
  Formula formula;
  Array result;  // y, or absent
  Array target;  // y + baseline, or absent

  DepartureEstimator(const DepartureArgs& args, const Formula& f, const Matrix& y, const Matrix& y_plus)
      : rows(args.rows), horizon(args.horizon), in(args), formula(f), result(y), target(y_plus) {}

  template <class E, class Visit>
  HL_EITHER static void arrays(E& e, Visit& visit) {
    DepartureInputs<T, Formula::kRatioShift>::arrays(e.in, visit);
    visit.numbers(e.result, e.target);
  }

  template <class I>
  HL_DEVICE Affine<T> step(I row, I t) const {
    const DepartureStep<T> s = in.load(row, t);
    const Affine<T> affine = formula.step(s, in.discounts.of(row));
    const T idle = formula.idle(s);
    return {s.valid ? affine.a : T(0), s.valid ? affine.b : idle};
  }

  template <class I>
  HL_DEVICE void emit(I row, I t, T y, T) const {
    if (result.given()) store_at(result, row, t, y);
    if (target.given()) store_at(target, row, t, y + load_or<T>(in.baseline, row, t, T(0)));
  }
};

}  // namespace device
}  // namespace hotloop
