#include "delta_lambda.h"

#include "../core/recurrence.h"
#include "discounts.h"
#include "runs.h"
#include "scan_engine.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

template <class T>
static inline void mask(int64_t count, const T* __restrict valid, T* __restrict a, T* __restrict b) {
  for (int64_t i = 0; i < count; ++i) {
    a[i] = valid[i] != T(0) ? a[i] : T(0);
    b[i] = valid[i] != T(0) ? b[i] : T(0);
  }
}

template <class T>
struct DeltaLambda {
  const DeltaLambdaParams& p;

  template <class Discounts>
  void steps(const Discounts& k, int64_t count, const T* __restrict value, const T* __restrict value_next,
             const T* __restrict reward_next, const T* __restrict done_next, T* __restrict a,
             T* __restrict b) const {
    for (int64_t i = 0; i < count; ++i) {
      const Affine<T> step = delta_lambda_step(k.at(i), value[i], value_next[i], reward_next[i], done_next[i]);
      a[i] = step.a;
      b[i] = step.b;
    }
  }

  // Nothing is known of what arrives after the last step, where the caller has not told.
  bool ends_unknown() const { return p.next_values.data == nullptr; }

  template <bool kTime>
  void stage(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    const T* value = load_or_zeros<kTime>(p.values, row, t, count, s.run[0]);
    const T* value_next = load_later<kTime>(p.values, p.next_values, p.horizon, row, t, count, s.run[1]);
    const T* reward_next = load_later<kTime>(p.rewards, p.next_rewards, p.horizon, row, t, count, s.run[2]);
    const T* done_next = load_later<kTime>(p.dones, p.next_dones, p.horizon, row, t, count, s.run[3]);
    with_discounts<kTime>(p.discounts, row, count, s.run[4], s.run[5], [&](const auto& k) {
      steps(k, count, value, value_next, reward_next, done_next, a, b);
    });
    if (p.valid.data != nullptr) mask(count, load_or_zeros<kTime>(p.valid, row, t, count, s.run[6]), a, b);
    if (!ends_unknown() || t + (kTime ? count : 1) != p.horizon) return;
    for (int64_t i = kTime ? count - 1 : 0; i < count; ++i) a[i] = b[i] = T(0);
  }
  void stage_time(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    stage<true>(row, t, count, a, b, s);
  }
  void stage_rows(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    stage<false>(row, t, count, a, b, s);
  }

  bool flat() const {
    return !per_row(p.discounts) && end_to_end<T>(p.values, p.horizon) && end_to_end<T>(p.rewards, p.horizon) &&
           end_to_end<T>(p.dones, p.horizon) && end_to_end<T>(p.out, p.horizon) &&
           (p.valid.data == nullptr || end_to_end<T>(p.valid, p.horizon));
  }

  // The successor of a row's last step is the next row's first one: computed too, to keep one long loop, and then
  // replaced. The last step of the last row has no successor in memory.
  void stage_flat(int64_t row, int64_t rows, T* a, T* b) const {
    const OneDiscount<T> k{discount_of_row<T>(p.discounts, row)};
    const T *value = row_of<T>(p.values, row), *reward = row_of<T>(p.rewards, row),
            *done = row_of<T>(p.dones, row);
    steps(k, rows * p.horizon - 1, value, value + 1, reward + 1, done + 1, a, b);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t last = (r + 1) * p.horizon - 1;
      if (ends_unknown()) {
        a[last] = b[last] = T(0);
        continue;
      }
      T next[3];
      steps(k, 1, value + last, load_along_rows(p.next_values, row + r, 0, 1, next),
            load_along_rows(p.next_rewards, row + r, 0, 1, next + 1),
            load_along_rows(p.next_dones, row + r, 0, 1, next + 2), a + last, b + last);
    }
    if (p.valid.data != nullptr) mask(rows * p.horizon, row_of<T>(p.valid, row), a, b);
  }

  T* flat_result(int64_t row) const { return row_of<T>(p.out, row); }
  void emit_flat(int64_t row, int64_t rows, const T* y, T*) const { put_flat(p.out, row, rows * p.horizon, y); }
  void emit_time(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>&) const {
    store_along_time(p.out, row, t, count, y);
  }
  void emit_rows(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>&) const {
    store_along_rows(p.out, row, t, count, y);
  }
};

// l[t] = grad[t] + gamma * lambda * (1 - d[t]) * l[t-1] is the gradient of the TD error of step t; it is 0, and
// nothing comes from it, where step t is not valid.
template <class T>
struct DeltaLambdaBackward {
  const DeltaLambdaBackwardParams& p;

  template <bool kTime>
  void stage(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    const T* done = load_or_zeros<kTime>(p.dones, row, t, count, s.run[0]);
    with_discounts<kTime>(p.discounts, row, count, s.run[1], s.run[2], [&](const auto& k) {
      for (int64_t i = 0; i < count; ++i) a[i] = k.at(i).decay * (T(1) - done[i]);
    });
    copy_run<kTime>(p.grad, row, t, count, b);
    if (p.valid.data != nullptr) mask(count, load_or_zeros<kTime>(p.valid, row, t, count, s.run[3]), a, b);
    if (p.next_dones.data != nullptr || t + (kTime ? count : 1) != p.horizon) return;
    for (int64_t i = kTime ? count - 1 : 0; i < count; ++i) a[i] = b[i] = T(0);  // the column is constant
  }

  template <bool kTime>
  void emit(int64_t row, int64_t t, int64_t count, const T* l, Scratch<T>& s) const {
    const T* done = load_or_zeros<kTime>(p.dones, row, t, count, s.run[0]);
    const T* earlier = shifted_earlier<kTime>(row, count, t == 0, l, s.run[1], s);
    T* values = s.run[2];
    with_discounts<kTime>(p.discounts, row, count, s.run[3], s.run[4], [&](const auto& k) {
      for (int64_t i = 0; i < count; ++i) values[i] = k.at(i).gamma * (T(1) - done[i]) * earlier[i] - l[i];
    });
    store_run_at<kTime>(p.grad_values, row, t, count, values);
    store_run_at<kTime>(p.grad_rewards, row, t, count, earlier);
    if (t + (kTime ? count : 1) != p.horizon) return;
    const int64_t rows = kTime ? 1 : count;
    const T* l_last = kTime ? l + count - 1 : l;
    const T* next_done = load_or_zeros<false>(p.next_dones, row, 0, rows, s.run[0]);
    with_discounts<false>(p.discounts, row, rows, s.run[3], s.run[4], [&](const auto& k) {
      for (int64_t i = 0; i < rows; ++i) values[i] = k.at(i).gamma * (T(1) - next_done[i]) * l_last[i];
    });
    store_along_rows(p.grad_next_values, row, 0, rows, values);
    store_along_rows(p.grad_next_rewards, row, 0, rows, l_last);
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

// Without `valid` the plain formula holds; a step that is not valid cuts the trace exactly.
template <class T>
void run(const DeltaLambdaParams& p) {
  const int64_t bytes = p.segments * p.horizon * 4 * static_cast<int64_t>(sizeof(T));
  const bool lanes = rows_are_lanes(p.values);
  if (p.valid.data == nullptr) {
    scan_from_last<false, T>(DeltaLambda<T>{p}, p.segments, p.horizon, lanes, bytes);
  } else {
    scan_from_last<true, T>(DeltaLambda<T>{p}, p.segments, p.horizon, lanes, bytes);
  }
}

template <class T>
void run_backward(const DeltaLambdaBackwardParams& p) {
  if (p.horizon == 0) {
    store_zeros(p.grad_next_values, p.segments);
    store_zeros(p.grad_next_rewards, p.segments);
    return;
  }
  const int64_t bytes = p.segments * p.horizon * 4 * static_cast<int64_t>(sizeof(T));
  const bool lanes = rows_are_lanes(p.grad_values);
  scan_from_first<true, T>(DeltaLambdaBackward<T>{p}, p.segments, p.horizon, lanes, bytes);
}

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
void delta_lambda(const DeltaLambdaParams& p) {
  if (p.values.dtype == DType::f64) {
    run<double>(p);
  } else {
    run<float>(p);
  }
}

void delta_lambda_backward(const DeltaLambdaBackwardParams& p) {
  if (p.grad.dtype == DType::f64) {
    run_backward<double>(p);
  } else {
    run_backward<float>(p);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
