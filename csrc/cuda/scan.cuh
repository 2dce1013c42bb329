// What the paths of the recurrence engine share. An estimator is a struct, passed to kernels by value, with
//   Number             of the arithmetic
//   kForwards          whether it runs from the first step to the last (gradients) or from the last to the first
//   kCut               whether a coefficient of zero cuts the trace
//   rows, horizon
//   step(row, t)       the coefficients of y = a * y_before + b
//   emit(row, t, y, before)   what to do with the result; `before` is that of the step scanned before, 0 at the first
#pragma once
#include "device.h"
#include "element.cuh"
#include "../core/recurrence.h"

namespace hotloop {
namespace device {

// The step that is scanned as number `i`.
template <class E, class I>
HL_DEVICE I step_number(int64_t horizon, I i) {
  return E::kForwards ? i : static_cast<I>(horizon) - 1 - i;
}

// A run of steps as one: y = a * y_before + b. Where kCut, nothing passes a coefficient of zero.
template <class T, bool kCut>
struct Segment {
  T a, b;
};

template <class E>
using SegmentOf = Segment<typename E::Number, E::kCut>;

template <class E>
HL_DEVICE SegmentOf<E> nothing_done() {
  using T = typename E::Number;
  return {T(1), T(0)};
}

template <class T, bool kCut>
HL_DEVICE T apply(const Segment<T, kCut>& segment, T y) {
  return kCut && segment.a == T(0) ? segment.b : segment.b + segment.a * y;
}

// First `before`, then `after`.
template <class T, bool kCut>
HL_DEVICE Segment<T, kCut> compose(const Segment<T, kCut>& after, const Segment<T, kCut>& before) {
  return {kCut && after.a == T(0) ? T(0) : after.a * before.a, apply(after, before.b)};
}

template <class T, bool kCut>
HL_DEVICE Segment<T, kCut> shuffle_up(const Segment<T, kCut>& s, int distance) {
  return {__shfl_up_sync(kAllLanes, s.a, distance), __shfl_up_sync(kAllLanes, s.b, distance)};
}

template <class T, bool kCut>
HL_DEVICE Segment<T, kCut> shuffle_from(const Segment<T, kCut>& s, int lane) {
  return {__shfl_sync(kAllLanes, s.a, lane), __shfl_sync(kAllLanes, s.b, lane)};
}

// Lane i gets the steps of the lanes 0 to i as one (Kogge & Stone 1973).
template <class T, bool kCut>
HL_DEVICE Segment<T, kCut> scan_warp(Segment<T, kCut> s, int lane) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const Segment<T, kCut> before = shuffle_up(s, distance);
    if (lane >= distance) s = compose(s, before);
  }
  return s;
}

}  // namespace device
}  // namespace hotloop
