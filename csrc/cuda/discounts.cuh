// gamma and lambda in the dtype of the arithmetic: the same for all rows, or one a row.
#pragma once
#include "element.cuh"
#include "../core/estimator_args.h"
#include "../core/recurrence.h"

namespace hotloop {
namespace device {

template <class T>
struct Discounts {
  T gamma, gae_lambda;  // converted on the host: float64 is slow on most GPUs
  Array gammas, gae_lambdas;

  explicit Discounts(const DiscountArgs& d)
      : gamma(static_cast<T>(d.gamma)),
        gae_lambda(static_cast<T>(d.gae_lambda)),
        gammas(d.gammas),
        gae_lambdas(d.gae_lambdas) {}

  template <class I>
  HL_DEVICE Discount<T> of(I row) const {
    return make_discount(load_or<T>(gammas, row, 0, gamma), load_or<T>(gae_lambdas, row, 0, gae_lambda));
  }
};

}  // namespace device
}  // namespace hotloop
