#include "td_lambda.h"

#include "departure_estimator.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

template <class T>
struct TdLambdaFormula {
  static constexpr int kRatioShift = 0;
  static constexpr bool kLean = true;

  template <class Run>
  Affine<T> step(const Run& run, int64_t i, const Discount<T>& k, bool continues) const {
    return td_lambda_step(k, run.reward[i], run.bootstrap(i), continues);
  }
  template <class Run>
  T idle(const Run& run, int64_t i) const {
    return run.value[i];
  }
};

// With l[t] = grad[t] + a[t-1] * l[t-1], the gradient of the coefficient b[t]; where `open`, b[t-1] contains
// gamma * (1 - lambda) * V[t].
template <class T>
struct TdLambdaBackward {
  const TdLambdaBackwardParams& p;
  DepartureReader<T> reader;

  // Whether the steps before each of a run continue into it, as 1 or 0. Uses the scratch runs [0, 9).
  template <bool kTime>
  void open(int64_t row, int64_t t, int64_t count, T* out, Scratch<T>& s) const {
    const int64_t missing = t > 0 ? 0 : kTime ? 1 : count;  // nothing comes before the first step
    for (int64_t i = 0; i < missing; ++i) out[i] = T(0);
    if (missing == count) return;
    const int64_t from = kTime ? t - 1 + missing : t - 1;
    reader.template with_steps<false>(reader.template load<kTime>(row, from, count - missing, s),
                                      [&](const auto& run) {
                                        for (int64_t i = 0; i < count - missing; ++i) {
                                          out[missing + i] = (run.is_valid(i) & !run.ends(i)) ? T(1) : T(0);
                                        }
                                      });
  }

  template <bool kTime>
  void stage(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    open<kTime>(row, t, count, a, s);
    with_discounts<kTime, false>(p.in.discounts, row, count, s.run[0], s.run[1], [&](const auto& k) {
      for (int64_t i = 0; i < count; ++i) a[i] = a[i] != T(0) ? k.at(i).decay : T(0);
    });
    copy_run<kTime>(p.grad, row, t, count, b);
  }

  template <bool kTime>
  void emit(int64_t row, int64_t t, int64_t count, const T* l, Scratch<T>& s) const {
    T *rewards = s.run[3], *values = s.run[4], *truncations = s.run[5], *was_open = s.run[9];
    open<kTime>(row, t, count, was_open, s);
    const T* earlier = shifted_earlier<kTime>(row, count, t == 0, l, s.run[11], s);
    const DepartureRun<T> loaded = reader.template load<kTime>(row, t, count, s);
    with_discounts<kTime, false>(p.in.discounts, row, count, s.run[7], s.run[8], [&](const auto& discounts) {
      reader.template with_steps<false>(loaded, [&](const auto& run) {
        for (int64_t i = 0; i < count; ++i) {
          const Discount<T> k = discounts.at(i);
          rewards[i] = run.is_valid(i) ? l[i] : T(0);
          values[i] = (run.is_valid(i) ? T(0) : l[i]) + (was_open[i] != T(0) ? k.rest * earlier[i] : T(0));
          truncations[i] = (run.is_valid(i) & run.is_cut_short(i)) ? k.gamma * l[i] : T(0);
        }
        const bool last = t + (kTime ? count : 1) == p.in.horizon;
        for (int64_t i = kTime ? count - 1 : 0; last && i < count; ++i) {
          s.run[10][i] = (run.is_valid(i) & !run.ends(i)) ? discounts.at(i).gamma * l[i] : T(0);
        }
        if (last)
          store_along_rows(p.grad_last_values, row, 0, kTime ? 1 : count, s.run[10] + (kTime ? count - 1 : 0));
      });
    });
    store_run_at<kTime>(p.grad_rewards, row, t, count, rewards);
    store_run_at<kTime>(p.grad_values, row, t, count, values);
    store_run_at<kTime>(p.grad_truncation_values, row, t, count, truncations);
  }

  void stage_time(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    stage<true>(row, t, count, a, b, s);
  }
  void stage_rows(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    stage<false>(row, t, count, a, b, s);
  }
  void emit_time(int64_t row, int64_t t, int64_t count, const T* l, Scratch<T>& s) const {
    emit<true>(row, t, count, l, s);
  }
  void emit_rows(int64_t row, int64_t t, int64_t count, const T* l, Scratch<T>& s) const {
    emit<false>(row, t, count, l, s);
  }
};

template <class T>
void run_backward(const TdLambdaBackwardParams& p) {
  if (p.in.horizon == 0) return store_zeros(p.grad_last_values, p.in.rows);
  const bool lanes = rows_are_lanes(p.grad_values);
  const TdLambdaBackward<T> estimator{p, DepartureReader<T>(p.in, lanes, 0)};
  const int64_t bytes = p.in.rows * p.in.horizon * 5 * static_cast<int64_t>(sizeof(T));
  scan_from_first<true, T>(estimator, p.in.rows, p.in.horizon, lanes, bytes);
}

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
void td_lambda(const TdLambdaParams& p) {
  if (p.in.dtype == DType::f64) {
    run_departure<double>(p.in, TdLambdaFormula<double>{}, p.returns, Matrix{}, 4);
  } else {
    run_departure<float>(p.in, TdLambdaFormula<float>{}, p.returns, Matrix{}, 4);
  }
}

void td_lambda_backward(const TdLambdaBackwardParams& p) {
  if (p.grad.dtype == DType::f64) {
    run_backward<double>(p);
  } else {
    run_backward<float>(p);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
