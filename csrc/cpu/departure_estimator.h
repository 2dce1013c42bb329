// The estimator on the recurrence engine that the departure-indexed ops are.
//
// A formula is a struct with
//   kRatioShift        0, or 1 where a step needs the ratio of the next step
//   kLean              whether loops without truncated and valid are worth compiling
//   step(steps, i, k, continues)   the coefficients of step i; `continues`: no episode ends there, nor does the row
//   idle(steps, i)     the result of a step that is not valid
#pragma once
#include "departure.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

template <class T, class Formula>
struct DepartureEstimator {
  const DepartureArgs& d;
  Formula formula;
  Matrix result;  // y, or absent
  Matrix target;  // y + baseline, or absent
  DepartureReader<T> reader;
  bool is_flat;

  DepartureEstimator(const DepartureArgs& args, const Formula& f, const Matrix& y, const Matrix& y_plus,
                     bool lanes)
      : d(args),
        formula(f),
        result(y),
        target(y_plus),
        reader(args, lanes, Formula::kRatioShift),
        is_flat(reader.flat() && flat_or_absent(y) && flat_or_absent(y_plus)) {}

  bool flat_or_absent(const Matrix& m) const { return m.data == nullptr || end_to_end<T>(m, d.horizon); }

  // `last`: whether these are the last steps of their rows.
  template <class Run, class Discounts>
  void coefficients(const Run& run, const Discounts& discounts, int64_t count, bool last, T* __restrict a,
                    T* __restrict b) const {
    HL_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) {
      const bool valid = run.is_valid(i);
      const Affine<T> step = formula.step(run, i, discounts.at(i), !last & !run.ends(i));
      const T idle = formula.idle(run, i);
      a[i] = valid ? step.a : T(0);
      b[i] = valid ? step.b : idle;
    }
  }

  // The last step of one row: compiled once, not for each kind of flags.
  HL_NOINLINE void last_step(const DepartureRun<T>& run, const OneDiscount<T>& discount, T* a, T* b) const {
    T flags[3];
    coefficients(reader.single(run, flags), discount, 1, true, a, b);
  }

  void stage_time(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    const OneDiscount<T> discount{discount_of_row<T>(d.discounts, row)};
    reader.template with_steps<Formula::kLean>(reader.template load<true>(row, t, count, s), [&](const auto& run) {
      coefficients(run, discount, count, false, a, b);
    });
    if (t + count < d.horizon) return;
    last_step(reader.template load<true>(row, d.horizon - 1, 1, s), discount, a + count - 1, b + count - 1);
  }

  void stage_rows(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    const DepartureRun<T> loaded = reader.template load<false>(row, t, count, s);
    const bool last = t + 1 == d.horizon;
    with_discounts<false>(d.discounts, row, count, s.run[10], s.run[11], [&](const auto& discounts) {
      reader.template with_steps<Formula::kLean>(
          loaded, [&](const auto& run) { coefficients(run, discounts, count, last, a, b); });
    });
  }

  bool flat() const { return is_flat; }

  void stage_flat(int64_t row, int64_t rows, T* a, T* b) const {
    const OneDiscount<T> discount{discount_of_row<T>(d.discounts, row)};
    const DepartureRun<T> whole = reader.load_flat(row);
    reader.template with_steps<Formula::kLean>(
        whole, [&](const auto& run) { coefficients(run, discount, rows * d.horizon - 1, false, a, b); });
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = (r + 1) * d.horizon - 1;
      T scratch;
      last_step(reader.last_of_flat(whole, row + r, i, &scratch), discount, a + i, b + i);
    }
  }

  static void add(int64_t count, const T* __restrict x, const T* __restrict y, T* __restrict out) {
    for (int64_t i = 0; i < count; ++i) out[i] = x[i] + y[i];
  }

  T* flat_result(int64_t row) const { return result.data != nullptr ? row_of<T>(result, row) : nullptr; }
  void emit_flat(int64_t row, int64_t rows, const T* y, T*) const {
    const int64_t count = rows * d.horizon;
    if (result.data != nullptr) put_flat(result, row, count, y);
    if (target.data != nullptr) add(count, y, row_of<T>(d.baseline, row), row_of<T>(target, row));
  }

  template <bool kTime>
  void emit(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>& s) const {
    if (result.data != nullptr) store_run_at<kTime>(result, row, t, count, y);
    if (target.data == nullptr) return;
    const T* baseline = load_or_zeros<kTime>(d.baseline, row, t, count, s.run[0]);
    T* place = direct<kTime, T>(target, row, t);
    add(count, y, baseline, place != nullptr ? place : s.run[1]);
    if (place == nullptr) store_run_at<kTime>(target, row, t, count, s.run[1]);
  }
  void emit_time(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>& s) const {
    emit<true>(row, t, count, y, s);
  }
  void emit_rows(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>& s) const {
    emit<false>(row, t, count, y, s);
  }
};

// `arrays`: how many matrices the op moves, for the grain.
template <class T, class Formula>
static inline void run_departure(const DepartureArgs& d, const Formula& formula, const Matrix& y,
                                 const Matrix& y_plus, int64_t arrays) {
  const bool lanes = rows_are_lanes(d.rewards);
  const DepartureEstimator<T, Formula> estimator(d, formula, y, y_plus, lanes);
  const int64_t bytes = d.rows * d.horizon * arrays * static_cast<int64_t>(sizeof(T));
  scan_from_last<true, T>(estimator, d.rows, d.horizon, lanes, bytes);
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
