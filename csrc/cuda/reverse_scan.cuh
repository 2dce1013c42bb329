// The bare recurrence, and its gradients.
#pragma once
#include "scan.cuh"
#include "../core/estimator_params.h"

namespace hotloop {
namespace device {

template <class T>
struct ReverseScan {
  using Number = T;
  static constexpr bool kForwards = false;
  static constexpr bool kCut = false;

  int64_t rows, horizon;
  ReverseScanParams p;

  explicit ReverseScan(const ReverseScanParams& params) : rows(params.rows), horizon(params.horizon), p(params) {}

  // y[T] enters through the last step: a[T-1] * last + b[T-1], after which nothing follows.
  HL_DEVICE Affine<T> step(int64_t row, int64_t t) const {
    const Affine<T> affine{load_at<T>(p.a, row, t), load_at<T>(p.b, row, t)};
    if (t + 1 < horizon || p.last.data == nullptr) return affine;
    return {T(0), follow<false>(affine, load_at<T>(p.last, row, 0))};
  }

  HL_DEVICE void emit(int64_t row, int64_t t, T y, T) const { store_at(p.out, row, t, y); }
};

template <class T>
struct ReverseScanBackward {
  using Number = T;
  static constexpr bool kForwards = true;
  static constexpr bool kCut = false;

  int64_t rows, horizon;
  ReverseScanBackwardParams p;

  explicit ReverseScanBackward(const ReverseScanBackwardParams& params)
      : rows(params.rows), horizon(params.horizon), p(params) {}

  HL_DEVICE Affine<T> step(int64_t row, int64_t t) const {
    return {t == 0 ? T(0) : load_at<T>(p.a, row, t - 1), load_at<T>(p.grad, row, t)};
  }

  HL_DEVICE void emit(int64_t row, int64_t t, T l, T) const {
    store_at(p.grad_b, row, t, l);
    store_at(p.grad_a, row, t, l * load_later<T>(p.y, p.last, horizon, row, t));
    if (t + 1 == horizon) store_at(p.grad_last, row, 0, load_at<T>(p.a, row, t) * l);
  }
};

}  // namespace device
}  // namespace hotloop
