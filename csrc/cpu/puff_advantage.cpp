#include "puff_advantage.h"

#include <cstring>

#include "../core/recurrence.h"
#include "discounts.h"
#include "runs.h"
#include "scan_engine.h"
#include "statistics.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

template <class T>
struct PuffEstimator {
  const PuffAdvantageParams& p;
  T rho_clip, c_clip;
  const Statistics<T>& statistics;

  template <class Discounts>
  void steps(const Discounts& k, int64_t count, const T* __restrict value, const T* __restrict value_next,
             const T* __restrict reward_next, const T* __restrict done_next, const T* __restrict importance,
             T* __restrict a, T* __restrict b) const {
    HL_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) {
      const Affine<T> step = puff_step(k.at(i), rho_clip, c_clip, value[i], value_next[i], reward_next[i],
                                       done_next[i], importance[i]);
      a[i] = step.a;
      b[i] = step.b;
    }
  }

  void stage_time(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    const OneDiscount<T> k{discount_of_row<T>(p.discounts, row)};
    const bool last = t + count == p.horizon;
    const int64_t inner = last ? count - 1 : count;  // steps whose successor lies in the matrices
    const T* value = load_along_time(p.values, row, t, count, s.run[0]);
    const T* importance = load_along_time(p.importance, row, t, count, s.run[1]);
    if (inner > 0) {
      const T* value_next = load_along_time(p.values, row, t + 1, inner, s.run[2]);
      const T* reward_next = load_along_time(p.rewards, row, t + 1, inner, s.run[3]);
      const T* done_next = load_along_time(p.dones, row, t + 1, inner, s.run[4]);
      steps(k, inner, value, value_next, reward_next, done_next, importance, a, b);
    }
    if (!last) return;
    if (p.next_values.data == nullptr) {
      a[inner] = b[inner] = T(0);  // nothing is known of what arrives after the last step
      return;
    }
    const T* value_next = load_along_rows(p.next_values, row, 0, 1, s.run[2]);
    const T* reward_next = load_along_rows(p.next_rewards, row, 0, 1, s.run[3]);
    const T* done_next = load_along_rows(p.next_dones, row, 0, 1, s.run[4]);
    steps(k, 1, value + inner, value_next, reward_next, done_next, importance + inner, a + inner, b + inner);
  }

  void stage_rows(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    const bool last = t + 1 == p.horizon;
    if (last && p.next_values.data == nullptr) {
      for (int64_t i = 0; i < count; ++i) a[i] = b[i] = T(0);
      return;
    }
    const int64_t next = last ? 0 : t + 1;
    const T* value = load_along_rows(p.values, row, t, count, s.run[0]);
    const T* importance = load_along_rows(p.importance, row, t, count, s.run[1]);
    const T* value_next = load_along_rows(last ? p.next_values : p.values, row, next, count, s.run[2]);
    const T* reward_next = load_along_rows(last ? p.next_rewards : p.rewards, row, next, count, s.run[3]);
    const T* done_next = load_along_rows(last ? p.next_dones : p.dones, row, next, count, s.run[4]);
    with_discounts<false>(p.discounts, row, count, s.run[5], s.run[6], [&](const auto& k) {
      steps(k, count, value, value_next, reward_next, done_next, importance, a, b);
    });
  }

  bool flat() const {
    return !per_row(p.discounts) && end_to_end<T>(p.values, p.horizon) && end_to_end<T>(p.rewards, p.horizon) &&
           end_to_end<T>(p.dones, p.horizon) && end_to_end<T>(p.importance, p.horizon) &&
           end_to_end<T>(p.advantages, p.horizon) &&
           (p.returns.data == nullptr || end_to_end<T>(p.returns, p.horizon));
  }

  // The successor of a row's last step is the next row's first one: computed too, to keep one long loop, and then
  // replaced. The last step of the last row has no successor in memory.
  void stage_flat(int64_t row, int64_t rows, T* a, T* b) const {
    const OneDiscount<T> k{discount_of_row<T>(p.discounts, row)};
    const T *value = row_of<T>(p.values, row), *reward = row_of<T>(p.rewards, row);
    const T *done = row_of<T>(p.dones, row), *importance = row_of<T>(p.importance, row);
    steps(k, rows * p.horizon - 1, value, value + 1, reward + 1, done + 1, importance, a, b);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t last = (r + 1) * p.horizon - 1;
      if (p.next_values.data == nullptr) {
        a[last] = b[last] = T(0);  // nothing is known of what arrives after the last step
        continue;
      }
      T next[3];
      steps(k, 1, value + last, load_along_rows(p.next_values, row + r, 0, 1, next),
            load_along_rows(p.next_rewards, row + r, 0, 1, next + 1),
            load_along_rows(p.next_dones, row + r, 0, 1, next + 2), importance + last, a + last, b + last);
    }
  }

  static void add(int64_t count, const T* __restrict x, const T* __restrict y, T* __restrict out) {
    for (int64_t i = 0; i < count; ++i) out[i] = x[i] + y[i];
  }

  T* flat_result(int64_t row) const { return row_of<T>(p.advantages, row); }
  void emit_flat(int64_t row, int64_t rows, const T* y, T*) const {
    const int64_t count = rows * p.horizon;
    put_flat(p.advantages, row, count, y);
    if (p.returns.data != nullptr) add(count, y, row_of<T>(p.values, row), row_of<T>(p.returns, row));
    statistics.rows_done(row, rows);
  }

  template <bool kTime>
  void emit(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>& s) const {
    store_run_at<kTime>(p.advantages, row, t, count, y);
    if (p.returns.data != nullptr) {
      add(count, y, load_or_zeros<kTime>(p.values, row, t, count, s.run[0]), s.run[1]);
      store_run_at<kTime>(p.returns, row, t, count, s.run[1]);
    }
    if (t == 0) statistics.rows_done(row, kTime ? 1 : count);
  }
  void emit_time(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>& s) const {
    emit<true>(row, t, count, y, s);
  }
  void emit_rows(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>& s) const {
    emit<false>(row, t, count, y, s);
  }
};

template <class T>
void run(const PuffAdvantageParams& p) {
  const Statistics<T> statistics{p.statistics, p.advantages, Matrix{}, p.horizon};
  const PuffEstimator<T> estimator{p, static_cast<T>(p.rho_clip), static_cast<T>(p.c_clip), statistics};
  const int64_t bytes = p.segments * p.horizon * 5 * static_cast<int64_t>(sizeof(T));
  scan_from_last<false, T>(estimator, p.segments, p.horizon, rows_are_lanes(p.values), bytes);
  statistics.finish(p.segments);
}

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
void puff_advantage(const PuffAdvantageParams& p) {
  if (p.values.dtype == DType::f64) {
    run<double>(p);
  } else {
    run<float>(p);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
