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
template <class E>
HL_DEVICE int64_t step_number(int64_t horizon, int64_t i) {
  return E::kForwards ? i : horizon - 1 - i;
}

// A run of steps as one: y = a * y_before + b. `cut`: nothing from before the run reaches its end.
template <class T>
struct Segment {
  T a, b;
  int cut;
};

template <class T>
HL_DEVICE Segment<T> nothing_done() {
  return {T(1), T(0), 0};
}

template <class E, class T>
HL_DEVICE Segment<T> segment_of(const Affine<T>& step) {
  return {step.a, step.b, E::kCut && step.a == T(0) ? 1 : 0};
}

template <class T>
HL_DEVICE T apply(const Segment<T>& segment, T y) {
  return segment.cut != 0 ? segment.b : segment.b + segment.a * y;
}

// First `before`, then `after`.
template <class T>
HL_DEVICE Segment<T> compose(const Segment<T>& after, const Segment<T>& before) {
  return {after.cut != 0 ? T(0) : after.a * before.a, apply(after, before.b), after.cut | before.cut};
}

template <class T>
HL_DEVICE Segment<T> shuffle_up(const Segment<T>& s, int distance) {
  return {__shfl_up_sync(kAllLanes, s.a, distance), __shfl_up_sync(kAllLanes, s.b, distance),
          __shfl_up_sync(kAllLanes, s.cut, distance)};
}

template <class T>
HL_DEVICE Segment<T> shuffle_from(const Segment<T>& s, int lane) {
  return {__shfl_sync(kAllLanes, s.a, lane), __shfl_sync(kAllLanes, s.b, lane),
          __shfl_sync(kAllLanes, s.cut, lane)};
}

// Lane i gets the steps of the lanes 0 to i as one (Kogge & Stone 1973).
template <class T>
HL_DEVICE Segment<T> scan_warp(Segment<T> s, int lane) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const Segment<T> before = shuffle_up(s, distance);
    if (lane >= distance) s = compose(s, before);
  }
  return s;
}

}  // namespace device
}  // namespace hotloop
