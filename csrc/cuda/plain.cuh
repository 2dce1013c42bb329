// Estimators whose arrays are what a training loop has: float32, flags of one byte, neighbours side by side. A kernel that
// is compiled for these reads without switches and with addresses that are sums, so that the loads of several steps are
// on their way at once: behind a switch each waits for the one before.
//
// Such an estimator has `arrays(e, visit)`, which shows what it has to visit.required(...), .numbers(...), .flags(...),
// .columns(...) and .discounts(...); the first are always there, the others may be absent.
#pragma once
#include <type_traits>

#include "discounts.cuh"

namespace hotloop {
namespace device {

enum class Access {
  any,  // any dtypes and strides
  steps,  // plain, and neighbouring steps touch
  rows,  // plain, and neighbouring rows touch
};

// Of rows and steps. Plain arrays are of less than 2 GiB: 64-bit numbers take several instructions each.
template <Access kAccess>
using Index = std::conditional_t<kAccess == Access::any, int64_t, int32_t>;

// From one neighbour to the next, along the axis where they are to touch.
template <Access kAccess, class A>
HL_EITHER auto& bytes_between(A& a) {
  if constexpr (kAccess == Access::rows) {
    return a.row_bytes;
  } else {
    return a.time_bytes;
  }
}

// Whether an estimator may be read so.
template <Access kAccess>
struct PlainCheck {
  int64_t rows, horizon;
  bool holds = true;

  HL_EITHER void look(const Array& a, bool dtype_fits, int64_t bytes) {
    const int64_t size = rows * a.row_bytes + horizon * a.time_bytes;
    const bool in_reach = a.row_bytes >= 0 && a.time_bytes >= 0 && size < INT32_MAX;
    holds &= !a.given() || (dtype_fits && in_reach && bytes_between<kAccess>(a) == bytes);
  }
  template <class... Arrays>
  HL_EITHER void numbers(const Arrays&... all) {
    (look(all, all.dtype == DType::f32, 4), ...);
  }
  template <class... Arrays>
  HL_EITHER void required(const Arrays&... all) {
    numbers(all...);
    ((holds &= all.given()), ...);
  }
  template <class... Arrays>
  HL_EITHER void flags(const Arrays&... all) {
    (look(all, all.dtype == DType::b8 || all.dtype == DType::u8, 1), ...);
  }
  // One number a row: no neighbours along time.
  template <class... Arrays>
  HL_EITHER void columns(const Arrays&... all) {
    (look(all, all.dtype == DType::f32, bytes_between<kAccess>(all)), ...);
  }
  // One for all rows.
  template <class D>
  HL_EITHER void discounts(const D& d) {
    holds &= !d.gammas.given() && !d.gae_lambdas.given();
  }
};

// Says of an estimator what is known of it, so that the compiler knows it too.
template <Access kAccess>
struct TellPlain {
  HL_EITHER static void tell(Array& a, DType dtype, int64_t bytes) {
    a.dtype = dtype;
    bytes_between<kAccess>(a) = bytes;
  }
  template <class... Arrays>
  HL_EITHER void numbers(Arrays&... all) const {
    (tell(all, DType::f32, 4), ...);
  }
  template <class... Arrays>
  HL_EITHER void required(Arrays&... all) const {
    numbers(all...);
    (assume_given(all), ...);
  }
  HL_EITHER static void assume_given(const Array& a) { HL_ASSUME(a.data != nullptr); }
  template <class... Arrays>
  HL_EITHER void flags(Arrays&... all) const {
    (tell(all, DType::b8, 1), ...);
  }
  template <class... Arrays>
  HL_EITHER void columns(Arrays&... all) const {
    ((all.dtype = DType::f32), ...);
  }
  template <class D>
  HL_EITHER void discounts(D& d) const {
    d.gammas.data = nullptr;
    d.gae_lambdas.data = nullptr;
  }
};

template <Access kAccess, class E>
bool can_be_read(const E& e) {
  PlainCheck<kAccess> check{e.rows, e.horizon};
  E::arrays(e, check);
  return check.holds;
}

// The estimator of a kernel's parameters, as it is to be read.
template <Access kAccess, class E>
HL_DEVICE E as_read(const E& given) {
  E e = given;
  if constexpr (kAccess != Access::any) {
    const TellPlain<kAccess> tell;
    E::arrays(e, tell);
  }
  return e;
}

}  // namespace device
}  // namespace hotloop
