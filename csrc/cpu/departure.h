// Runs of departure-indexed inputs, along time or along rows, for the estimators on the recurrence engine.
#pragma once
#include "isa_namespace.h"
#include "../core/estimator_args.h"
#include "scan_engine.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

template <class T>
struct ConstantRuns {
  alignas(64) T zero[kLanes];
  alignas(64) T one[kLanes];
  constexpr ConstantRuns() : zero(), one() {
    for (int64_t i = 0; i < kLanes; ++i) one[i] = T(1);
  }
};
// constexpr: an initialiser that runs when the module is loaded would use this file's instruction set.
template <class T>
static constexpr ConstantRuns<T> kConstant{};

// gamma and gamma * lambda of one row ...
template <class T>
struct Discount {
  T gamma;
  T decay;
  Discount at(int64_t) const { return *this; }
};

// ... and of neighbouring rows.
template <class T>
struct DiscountRun {
  const T* gamma;
  const T* gae_lambda;
  Discount<T> at(int64_t i) const { return {gamma[i], gamma[i] * gae_lambda[i]}; }
};

template <class T>
static inline Discount<T> discount_of_row(const DiscountArgs& d, int64_t row) {
  T gamma = static_cast<T>(d.gamma), gae_lambda = static_cast<T>(d.gae_lambda);
  if (d.gammas.data != nullptr) gamma = *load_along_rows(d.gammas, row, 0, 1, &gamma);
  if (d.gae_lambdas.data != nullptr) gae_lambda = *load_along_rows(d.gae_lambdas, row, 0, 1, &gae_lambda);
  return {gamma, gamma * gae_lambda};
}

template <class T>
static inline const T* factor_of_rows(const Matrix& column, double scalar, int64_t row, int64_t count,
                                      T* scratch) {
  if (column.data != nullptr) return load_along_rows(column, row, 0, count, scratch);
  for (int64_t i = 0; i < count; ++i) scratch[i] = static_cast<T>(scalar);
  return scratch;
}

template <class T>
static inline DiscountRun<T> discount_of_rows(const DiscountArgs& d, int64_t row, int64_t count, T* scratch0,
                                              T* scratch1) {
  return {factor_of_rows(d.gammas, d.gamma, row, count, scratch0),
          factor_of_rows(d.gae_lambdas, d.gae_lambda, row, count, scratch1)};
}

// Calls body(discounts) with whichever kind the rows [row, row + count) need; both scratch runs are used.
template <class T, class Body>
static inline void with_discount_of_rows(const DiscountArgs& d, int64_t row, int64_t count, T* scratch0,
                                         T* scratch1, const Body& body) {
  if (per_row(d)) {
    body(discount_of_rows(d, row, count, scratch0, scratch1));
  } else {
    body(discount_of_row<T>(d, row));
  }
}

template <class T>
struct FlagRun {
  const T *terminated, *truncated, *valid;
  bool is_valid(int64_t i) const { return valid[i] != T(0); }
  bool ends(int64_t i) const { return (terminated[i] != T(0)) | (truncated[i] != T(0)); }
  // Whether what follows step i belongs to the same episode.
  bool continues(int64_t i) const { return is_valid(i) & !ends(i); }
};

// `next` is V[t+1], last_values after the last step.
template <class T>
struct DepartureRun : FlagRun<T> {
  const T *reward, *value, *next, *truncation_value;
  T bootstrap(int64_t i) const {
    const T following = next[i], final_observation = truncation_value[i];
    const T value_next = this->truncated[i] != T(0) ? final_observation : following;
    return this->terminated[i] != T(0) ? T(0) : value_next;
  }
};

template <bool kTime, class T>
static inline const T* load_optional(const Matrix& m, int64_t row, int64_t t, int64_t count, T* scratch,
                                     const T* otherwise) {
  if (m.data == nullptr) return otherwise;
  return kTime ? load_along_time(m, row, t, count, scratch) : load_along_rows(m, row, t, count, scratch);
}

// Uses the scratch runs [first, first + 3).
template <bool kTime, class T>
static inline FlagRun<T> load_flags(const DepartureArgs& d, int64_t row, int64_t t, int64_t count, Scratch<T>& s,
                                    int first) {
  const ConstantRuns<T>& constant = kConstant<T>;
  return {load_optional<kTime>(d.terminated, row, t, count, s.run[first], constant.zero),
          load_optional<kTime>(d.truncated, row, t, count, s.run[first + 1], constant.zero),
          load_optional<kTime>(d.valid, row, t, count, s.run[first + 2], constant.one)};
}

// The values after each step of a run; `scratch` holds them where they are not in one piece.
template <bool kTime, class T>
static inline const T* load_next_values(const DepartureArgs& d, int64_t row, int64_t t, int64_t count,
                                        T* scratch) {
  const T* zero = kConstant<T>.zero;
  if (!kTime) {
    return t + 1 == d.horizon ? load_optional<false>(d.last_values, row, 0, count, scratch, zero)
                              : load_optional<false>(d.values, row, t + 1, count, scratch, zero);
  }
  if (t + count < d.horizon) return load_optional<true>(d.values, row, t + 1, count, scratch, zero);
  const T* inner = count > 1 ? load_optional<true>(d.values, row, t + 1, count - 1, scratch, zero) : scratch;
  if (inner != scratch) std::memcpy(scratch, inner, static_cast<size_t>(count - 1) * sizeof(T));
  T last;
  scratch[count - 1] = *load_optional<false>(d.last_values, row, 0, 1, &last, zero);
  return scratch;
}

// Uses the scratch runs [0, 7).
template <bool kTime, class T>
static inline DepartureRun<T> load_departure(const DepartureArgs& d, int64_t row, int64_t t, int64_t count,
                                             Scratch<T>& s) {
  DepartureRun<T> run;
  static_cast<FlagRun<T>&>(run) = load_flags<kTime>(d, row, t, count, s, 0);
  run.reward = load_optional<kTime>(d.rewards, row, t, count, s.run[3], kConstant<T>.zero);
  run.value = load_optional<kTime>(d.values, row, t, count, s.run[4], kConstant<T>.zero);
  run.next = load_next_values<kTime>(d, row, t, count, s.run[5]);
  // Without truncation values no flag is set, and what is read is never used.
  run.truncation_value = load_optional<kTime>(d.truncation_values, row, t, count, s.run[6], run.truncated);
  return run;
}

template <bool kTime, class T>
static inline void store_run_at(const Matrix& m, int64_t row, int64_t t, int64_t count, const T* in) {
  if (kTime) {
    store_along_time(m, row, t, count, in);
  } else {
    store_along_rows(m, row, t, count, in);
  }
}

// The value of a row (or of neighbouring rows) one step before or after a run, kept between chunks:
// one slot a row in both layouts.
template <bool kTime, class T>
static inline T* carried_of(Scratch<T>& s, int64_t row) {
  return kTime ? s.carried + row % kRows : s.carried;
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
