// One step of departure-indexed inputs.
#pragma once
#include "discounts.cuh"

namespace hotloop {
namespace device {

template <class T>
struct DepartureStep {
  T reward, value, baseline, bootstrap, ratio;
  bool valid, ends, cut_short, continues;  // continues: no episode ends here, nor does the row
};

// kRatioShift: 1 where a step needs the ratio of the next step. An absent input is 0.
template <class T, int kRatioShift>
struct DepartureInputs {
  DepartureArgs d;
  Discounts<T> discounts;
  bool baseline_is_values;

  explicit DepartureInputs(const DepartureArgs& args)
      : d(args), discounts(args.discounts), baseline_is_values(same_view(args.baseline, args.values)) {}

  static bool same_view(const Matrix& a, const Matrix& b) {
    return a.data == b.data && a.dtype == b.dtype && a.row_stride == b.row_stride && a.time_stride == b.time_stride;
  }

  HL_DEVICE DepartureStep<T> load(int64_t row, int64_t t) const {
    DepartureStep<T> s;
    const bool terminated = flag_or<T>(d.terminated, row, t, false);
    const bool truncated = flag_or<T>(d.truncated, row, t, false);
    s.valid = flag_or<T>(d.valid, row, t, true);
    s.ends = terminated | truncated;
    s.cut_short = truncated & !terminated;
    s.continues = !s.ends & (t + 1 < d.horizon);
    s.reward = load_or<T>(d.rewards, row, t, T(0));
    s.value = load_or<T>(d.values, row, t, T(0));
    s.baseline = baseline_is_values ? s.value : load_or<T>(d.baseline, row, t, T(0));
    s.bootstrap = T(0);
    if (!terminated) {
      s.bootstrap = truncated ? load_or<T>(d.truncation_values, row, t, T(0))
                              : load_later<T>(d.values, d.last_values, d.horizon, row, t);
    }
    s.ratio = kRatioShift != 0 ? load_later<T>(d.importance, Matrix{}, d.horizon, row, t)
                               : load_or<T>(d.importance, row, t, T(0));
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
  Matrix result;  // y, or absent
  Matrix target;  // y + baseline, or absent

  DepartureEstimator(const DepartureArgs& args, const Formula& f, const Matrix& y, const Matrix& y_plus)
      : rows(args.rows), horizon(args.horizon), in(args), formula(f), result(y), target(y_plus) {}

  HL_DEVICE Affine<T> step(int64_t row, int64_t t) const {
    const DepartureStep<T> s = in.load(row, t);
    const Affine<T> affine = formula.step(s, in.discounts.of(row));
    const T idle = formula.idle(s);
    return {s.valid ? affine.a : T(0), s.valid ? affine.b : idle};
  }

  HL_DEVICE void emit(int64_t row, int64_t t, T y, T) const {
    if (result.data != nullptr) store_at(result, row, t, y);
    if (target.data != nullptr) store_at(target, row, t, y + load_or<T>(in.d.baseline, row, t, T(0)));
  }
};

}  // namespace device
}  // namespace hotloop
