// gamma and lambda of one row, or of neighbouring rows, in the dtype of the arithmetic.
#pragma once
#include "isa_namespace.h"
#include "../core/estimator_args.h"
#include "../core/recurrence.h"
#include "load.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

// Of one row ...
template <class T>
struct OneDiscount {
  Discount<T> k;
  const Discount<T>& at(int64_t) const { return k; }
};

// ... and of neighbouring rows.
template <class T>
struct DiscountRun {
  const T* gamma;
  const T* gae_lambda;
  Discount<T> at(int64_t i) const { return make_discount(gamma[i], gae_lambda[i]); }
};

template <class T>
static inline Discount<T> discount_of_row(const DiscountArgs& d, int64_t row) {
  T gamma = static_cast<T>(d.gamma), gae_lambda = static_cast<T>(d.gae_lambda);
  if (d.gammas.data != nullptr) gamma = *load_along_rows(d.gammas, row, 0, 1, &gamma);
  if (d.gae_lambdas.data != nullptr) gae_lambda = *load_along_rows(d.gae_lambdas, row, 0, 1, &gae_lambda);
  return make_discount(gamma, gae_lambda);
}

template <class T>
static inline const T* factor_of_rows(const Matrix& column, double scalar, int64_t row, int64_t count,
                                      T* scratch) {
  if (column.data != nullptr) return load_along_rows(column, row, 0, count, scratch);
  for (int64_t i = 0; i < count; ++i) scratch[i] = static_cast<T>(scalar);
  return scratch;
}

// Calls body(discounts) for the rows [row, row + count), or along time for the one row; `scratch0` and `scratch1`
// are used for rows only. kLean: compiled for rows of one discount, too.
template <bool kTime, bool kLean = true, class T, class Body>
static inline void with_discounts(const DiscountArgs& d, int64_t row, int64_t count, T* scratch0, T* scratch1,
                                  const Body& body) {
  if constexpr (kTime) {
    body(OneDiscount<T>{discount_of_row<T>(d, row)});
  } else {
    if constexpr (kLean) {
      if (!per_row(d)) return body(OneDiscount<T>{discount_of_row<T>(d, row)});
    }
    body(DiscountRun<T>{factor_of_rows(d.gammas, d.gamma, row, count, scratch0),
                        factor_of_rows(d.gae_lambdas, d.gae_lambda, row, count, scratch1)});
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
