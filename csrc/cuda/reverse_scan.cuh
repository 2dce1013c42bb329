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
  Array a, b, last, out;

  explicit ReverseScan(const ReverseScanParams& p)
      : rows(p.rows), horizon(p.horizon), a(p.a), b(p.b), last(p.last), out(p.out) {}

  template <class E, class Visit>
  HL_EITHER static void arrays(E& e, Visit& visit) {
    visit.required(e.a, e.b, e.out);
    visit.columns(e.last);
  }

  // y[T] enters through the last step: a[T-1] * last + b[T-1], after which nothing follows.
  template <class I>
  HL_DEVICE Affine<T> step(I row, I t) const {
    const Affine<T> affine{load_at<T>(a, row, t), load_at<T>(b, row, t)};
    if (t + 1 < static_cast<I>(horizon) || !last.given()) return affine;
    return {T(0), follow<false>(affine, load_at<T>(last, row, 0))};
  }

  template <class I>
  HL_DEVICE void emit(I row, I t, T result, T) const {
    store_at(out, row, t, result);
  }
};

template <class T>
struct ReverseScanBackward {
  using Number = T;
  static constexpr bool kForwards = true;
  static constexpr bool kCut = false;

  int64_t rows, horizon;
  Array grad, a, y, last, grad_a, grad_b, grad_last;

  explicit ReverseScanBackward(const ReverseScanBackwardParams& p)
      : rows(p.rows),
        horizon(p.horizon),
        grad(p.grad),
        a(p.a),
        y(p.y),
        last(p.last),
        grad_a(p.grad_a),
        grad_b(p.grad_b),
        grad_last(p.grad_last) {}

  template <class I>
  HL_DEVICE Affine<T> step(I row, I t) const {
    return {t == 0 ? T(0) : load_at<T>(a, row, t - 1), load_at<T>(grad, row, t)};
  }

  template <class I>
  HL_DEVICE void emit(I row, I t, T l, T) const {
    store_at(grad_b, row, t, l);
    store_at(grad_a, row, t, l * load_later<T>(y, last, horizon, row, t));
    if (t + 1 == static_cast<I>(horizon)) store_at(grad_last, row, 0, load_at<T>(a, row, t) * l);
  }
};

}  // namespace device
}  // namespace hotloop
