#include "gae.h"

#include "../core/recurrence.h"
#include "scan_engine.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

template <class T>
alignas(64) const T kZeroRun[kLanes] = {};

template <class T>
struct GaeEstimator {
  const GaeParams& p;
  GaeCoefficients<T> k;

  // The optional inputs come as runs of zeros (or ones, for valid), so that one loop serves every combination.
  void steps(int64_t count, const T* __restrict reward, const T* __restrict value, const T* __restrict value_next,
             const T* __restrict terminated, const T* __restrict truncated, const T* __restrict truncation_value,
             T* __restrict a, T* __restrict b) const {
    for (int64_t i = 0; i < count; ++i) {
      const bool is_terminated = terminated[i] != T(0);
      const bool is_truncated = truncated[i] != T(0);
      T bootstrap = is_truncated ? truncation_value[i] : value_next[i];
      bootstrap = is_terminated ? T(0) : bootstrap;
      b[i] = gae_delta(k, reward[i], value[i], bootstrap);
      a[i] = is_terminated || is_truncated ? T(0) : k.decay;
    }
  }

  static void mask(int64_t count, const T* __restrict valid, T* __restrict a, T* __restrict b) {
    for (int64_t i = 0; i < count; ++i) {
      a[i] = valid[i] != T(0) ? a[i] : T(0);
      b[i] = valid[i] != T(0) ? b[i] : T(0);
    }
  }

  void stage_time(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    const T* reward = load_along_time(p.rewards, row, t, count, s.run[0]);
    const T* value = load_along_time(p.values, row, t, count, s.run[1]);
    const T* terminated = load_along_time(p.terminated, row, t, count, s.run[3]);
    const T* truncated = p.truncated.data ? load_along_time(p.truncated, row, t, count, s.run[4]) : kZeroRun<T>;
    const T* truncation_value =
        p.truncation_values.data ? load_along_time(p.truncation_values, row, t, count, s.run[5]) : truncated;
    const bool last = t + count == p.horizon;
    const int64_t inner = last ? count - 1 : count;
    if (inner > 0) {
      const T* value_next = load_along_time(p.values, row, t + 1, inner, s.run[2]);
      steps(inner, reward, value, value_next, terminated, truncated, truncation_value, a, b);
    }
    if (last) {
      const T* value_next = load_along_rows(p.last_values, row, 0, 1, s.run[2]);
      steps(1, reward + inner, value + inner, value_next, terminated + inner, truncated + inner,
            truncation_value + inner, a + inner, b + inner);
    }
    if (p.valid.data) mask(count, load_along_time(p.valid, row, t, count, s.run[6]), a, b);
  }

  void stage_rows(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    const bool last = t + 1 == p.horizon;
    const T* reward = load_along_rows(p.rewards, row, t, count, s.run[0]);
    const T* value = load_along_rows(p.values, row, t, count, s.run[1]);
    const T* value_next = load_along_rows(last ? p.last_values : p.values, row, last ? 0 : t + 1, count, s.run[2]);
    const T* terminated = load_along_rows(p.terminated, row, t, count, s.run[3]);
    const T* truncated = p.truncated.data ? load_along_rows(p.truncated, row, t, count, s.run[4]) : kZeroRun<T>;
    const T* truncation_value =
        p.truncation_values.data ? load_along_rows(p.truncation_values, row, t, count, s.run[5]) : truncated;
    steps(count, reward, value, value_next, terminated, truncated, truncation_value, a, b);
    if (p.valid.data) mask(count, load_along_rows(p.valid, row, t, count, s.run[6]), a, b);
  }

  // Flags and optional inputs rarely share the dtype of the values: rows are staged one by one.
  bool flat() const { return false; }
  void stage_flat(int64_t, int64_t, T*, T*) const {}
  void emit_flat(int64_t, int64_t, const T*, T*) const {}

  static void add(int64_t count, const T* __restrict x, const T* __restrict y, T* __restrict out) {
    for (int64_t i = 0; i < count; ++i) out[i] = x[i] + y[i];
  }

  void emit_time(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>& s) const {
    store_along_time(p.advantages, row, t, count, y);
    add(count, y, load_along_time(p.values, row, t, count, s.run[0]), s.run[1]);
    store_along_time(p.returns, row, t, count, s.run[1]);
  }
  void emit_rows(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>& s) const {
    store_along_rows(p.advantages, row, t, count, y);
    add(count, y, load_along_rows(p.values, row, t, count, s.run[0]), s.run[1]);
    store_along_rows(p.returns, row, t, count, s.run[1]);
  }
};

template <class T>
void run(const GaeParams& p) {
  const T gamma = static_cast<T>(p.gamma);
  const GaeEstimator<T> estimator{p, {gamma, gamma * static_cast<T>(p.gae_lambda)}};
  const int64_t bytes = p.rows * p.horizon * 5 * static_cast<int64_t>(sizeof(T));
  scan_from_last<true, T>(estimator, p.rows, p.horizon, rows_are_lanes(p.values), bytes);
}

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
void gae(const GaeParams& p) {
  if (p.values.dtype == DType::f64) {
    run<double>(p);
  } else {
    run<float>(p);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
