// Categorical choices in the CPU's order of additions: a thread a row where heads are narrow, 16 where one is wide, which
// is how many partial sums such a row has.
#pragma once
#include "element.cuh"
#include "../core/categorical.h"
#include "../core/categorical_params.h"
#include "../core/logarithm.h"

namespace hotloop {
namespace device {

constexpr int kChoiceThreads = 128;
constexpr int kChoiceLanes = 16;  // threads of a row with a wide head
constexpr int kHeadsALaunch = 64;  // more heads take more launches, which hand their sums on

struct Heads {
  int32_t choices[kHeadsALaunch];
  int32_t count;
  int64_t first;  // number of the first
  int64_t first_column;  // where its logits begin
  int64_t columns;  // of all of them
  bool last;  // of the row
};

struct CategoricalArgs {
  int64_t rows;
  Array logits, mask, actions, log_prob, entropy, saved, log_probs;
  RandomKey key;  // of head 0
  uint64_t first_row;
  double* sums;  // [N, 2], or null where one launch does: log probability and entropy of the heads so far
};

template <class T>
HL_DEVICE T logit_at(const Array& logits, const Array& mask, int64_t row, int64_t column) {
  if (mask.given() && *reinterpret_cast<const uint8_t*>(mask.at(row, column)) == 0)
    return -static_cast<T>(HUGE_VAL);
  return load_at<T>(logits, row, column);
}

// One out of range ends the kernel with an error, as an index does: reading it back first would wait.
HL_DEVICE int64_t checked_choice(const Array& actions, int64_t row, int64_t head, int64_t limit) {
  const char* at = actions.at(row, head);
  int64_t choice;
  switch (actions.dtype) {
    case DType::u8: choice = *reinterpret_cast<const uint8_t*>(at); break;
    case DType::i8: choice = *reinterpret_cast<const int8_t*>(at); break;
    case DType::i16: choice = *reinterpret_cast<const int16_t*>(at); break;
    case DType::i32: choice = *reinterpret_cast<const int32_t*>(at); break;
    default: choice = *reinterpret_cast<const int64_t*>(at); break;
  }
  if (choice < 0 || choice >= limit) __trap();
  return choice;
}

HL_DEVICE void store_choice(const Array& actions, int64_t row, int64_t head, int64_t choice) {
  char* at = const_cast<char*>(actions.at(row, head));
  if (actions.dtype == DType::i32) {
    *reinterpret_cast<int32_t*>(at) = static_cast<int32_t>(choice);
  } else {
    *reinterpret_cast<int64_t*>(at) = choice;
  }
}

// The logits of one head of one row.
template <class T>
struct Head {
  const CategoricalArgs& args;
  int64_t row, first, choices;

  HL_DEVICE T logit(int64_t j) const { return logit_at<T>(args.logits, args.mask, row, first + j); }
};

template <class T>
struct HeadSums {
  T maximum;
  double sum, scatter;  // of e^x, and of e^x (-x), with x = logit - maximum
  int64_t choice;  // drawn with `uniform`, or as it was
};

template <bool kDraw, class T>
HL_DEVICE void sum_narrow_head(const Head<T>& head, double uniform, HeadSums<T>* out) {
  T maximum = head.logit(0);
  HL_ROLLED
  for (int64_t j = 1; j < head.choices; ++j) {
    const T x = head.logit(j);
    maximum = x > maximum ? x : maximum;
  }
  double sum = 0, scatter = 0;
  HL_ROLLED
  for (int64_t j = 0; j < head.choices; ++j) {
    const T shifted = head.logit(j) - maximum;
    const T weight = exponential(shifted);
    sum += static_cast<double>(weight);
    scatter += static_cast<double>(entropy_term(weight, shifted));
  }
  out->maximum = maximum;
  out->sum = sum;
  out->scatter = scatter;
  if (!kDraw) return;
  const double point = uniform * sum;
  double end = 0;
  int64_t choice = 0;
  HL_ROLLED
  for (int64_t j = 0; j < head.choices; ++j) {
    end += static_cast<double>(exponential(head.logit(j) - maximum));
    choice += end <= point ? 1 : 0;
  }
  out->choice = choice;
}

// Of the 16 threads that share a row. They may be half of a warp whose other half is elsewhere.
struct RowLanes {
  int lane;
  unsigned mask;

  HL_DEVICE RowLanes()
      : lane(static_cast<int>(threadIdx.x) % kChoiceLanes),
        mask(0xffffu << (static_cast<int>(threadIdx.x) % kWarp / kChoiceLanes * kChoiceLanes)) {}

  template <class X>
  HL_DEVICE X from(int other, X x) const {
    return __shfl_sync(mask, x, other, kChoiceLanes);
  }
  HL_DEVICE double sum(double x) const {
    for (int width = kChoiceLanes / 2; width > 0; width /= 2) x += __shfl_down_sync(mask, x, width, kChoiceLanes);
    return from(0, x);
  }
  template <class T>
  HL_DEVICE T maximum(T x) const {
    for (int width = kChoiceLanes / 2; width > 0; width /= 2) {
      const T other = __shfl_down_sync(mask, x, width, kChoiceLanes);
      x = other > x ? other : x;
    }
    return from(0, x);
  }
};

template <class T>
HL_DEVICE void sum_part(const Head<T>& head, const RowLanes& lanes, T maximum, int64_t start, int64_t size,
                        double* sum, double* scatter) {
  const int64_t end = start + size < head.choices ? start + size : head.choices;
  double weights = 0, terms = 0;
  HL_ROLLED
  for (int64_t j = start + lanes.lane; j < end; j += kChoiceLanes) {
    const T shifted = head.logit(j) - maximum;
    const T weight = exponential(shifted);
    weights += static_cast<double>(weight);
    terms += static_cast<double>(entropy_term(weight, shifted));
  }
  *sum = lanes.sum(weights);
  *scatter = lanes.sum(terms);
}

// All lanes walk along the part that the point lies in with the same numbers, each having made one of 16.
template <class T>
HL_DEVICE int64_t draw_wide(const Head<T>& head, const RowLanes& lanes, T maximum, double point) {
  const int64_t size = choices_a_part(head.choices);
  int64_t start = 0;
  double end = 0;
  HL_ROLLED
  for (; start + size < head.choices; start += size) {
    double sum, scatter;
    sum_part(head, lanes, maximum, start, size, &sum, &scatter);
    if (!(end + sum <= point)) break;
    end += sum;
  }
  // Within the part the order of the sum is another one: should rounding pass its end, the last possible choice.
  int64_t possible = start;
  const int64_t stop = start + size < head.choices ? start + size : head.choices;
  HL_ROLLED
  for (int64_t at = start; at < stop; at += kChoiceLanes) {
    const int64_t mine = at + lanes.lane;
    const T weight = mine < stop ? exponential(head.logit(mine) - maximum) : T(0);
    for (int i = 0; i < kChoiceLanes; ++i) {
      const T each = lanes.from(i, weight);
      if (each > T(0)) possible = at + i;
      end += static_cast<double>(each);
      if (end > point) return at + i;
    }
  }
  return possible;
}

template <bool kDraw, class T>
HL_DEVICE void sum_wide_head(const Head<T>& head, double uniform, HeadSums<T>* out) {
  const RowLanes lanes;
  T maximum = -static_cast<T>(HUGE_VAL);
  HL_ROLLED
  for (int64_t j = lanes.lane; j < head.choices; j += kChoiceLanes) {
    const T x = head.logit(j);
    maximum = x > maximum ? x : maximum;
  }
  maximum = lanes.maximum(maximum);
  double sum = 0, scatter = 0;
  const int64_t size = choices_a_part(head.choices);
  HL_ROLLED
  for (int64_t start = 0; start < head.choices; start += size) {
    double weights, terms;
    sum_part(head, lanes, maximum, start, size, &weights, &terms);
    sum += weights;
    scatter += terms;
  }
  out->maximum = maximum;
  out->sum = sum;
  out->scatter = scatter;
  if (kDraw) out->choice = draw_wide(head, lanes, maximum, uniform * sum);
}

// Row n draws with the bits number first_row + n of the stream of its head.
HL_DEVICE double choice_uniform(const CategoricalArgs& a, int64_t row, int64_t head) {
  RandomKey key = a.key;
  key.stream += static_cast<uint32_t>(head) << kStreamBits;
  return uniform_closed_open(random_bits64(key, a.first_row + static_cast<uint64_t>(row)));
}

// kLanes threads a row: 1, or kChoiceLanes, which is for wide heads and does narrow ones in each of them. kDraw: actions
// are written, otherwise read.
template <class T, int kLanes, bool kDraw>
__global__ void __launch_bounds__(kChoiceThreads, 4)
    categorical_kernel(const CategoricalArgs a, const Heads heads) {
  const int64_t row = global_thread() / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  if (row >= a.rows) return;
  double log_prob = 0, entropy = 0;
  if (a.sums != nullptr && heads.first > 0) {
    log_prob = a.sums[2 * row];
    entropy = a.sums[2 * row + 1];
  }
  Head<T> head{a, row, heads.first_column, 0};
  HL_ROLLED
  for (int h = 0; h < heads.count; head.first += heads.choices[h++]) {
    const int64_t number = heads.first + h;
    head.choices = heads.choices[h];
    HeadSums<T> s;
    s.choice = kDraw ? 0 : checked_choice(a.actions, row, number, head.choices);
    const double uniform = kDraw ? choice_uniform(a, row, number) : 0.0;
    if (kLanes == 1 || head.choices <= kNarrowHead) {
      sum_narrow_head<kDraw>(head, uniform, &s);
    } else {
      sum_wide_head<kDraw>(head, uniform, &s);
    }
    const double log_sum = logarithm(s.sum);
    const double h_of_head = log_sum + s.scatter / s.sum;  // both terms are >= 0: nothing cancels
    entropy += h_of_head;
    log_prob += static_cast<double>(head.logit(s.choice) - s.maximum) - log_sum;
    HL_ROLLED
    for (int64_t j = lane; kDraw && a.log_probs.given() && j < head.choices; j += kLanes) {
      store_at(a.log_probs, row, head.first + j, (head.logit(j) - s.maximum) - static_cast<T>(log_sum));
    }
    if (lane != 0) continue;
    if (kDraw) store_choice(a.actions, row, number, s.choice);
    if (kDraw || !a.saved.given()) continue;
    store_at(a.saved, row, 3 * number, s.maximum);
    store_at(a.saved, row, 3 * number + 1, static_cast<T>(log_sum));
    store_at(a.saved, row, 3 * number + 2, static_cast<T>(h_of_head));
  }
  if (lane != 0) return;
  if (heads.last) {
    store_at(a.log_prob, row, 0, static_cast<T>(log_prob));
    store_at(a.entropy, row, 0, static_cast<T>(entropy));
  } else {
    a.sums[2 * row] = log_prob;
    a.sums[2 * row + 1] = entropy;
  }
}

struct CategoricalBackwardArgs {
  int64_t rows;
  Array grad_log_prob, grad_entropy, logits, mask, actions, saved, grad_logits;
};

// A thread an element.
template <class T>
__global__ void __launch_bounds__(2 * kChoiceThreads)
    categorical_backward_kernel(const CategoricalBackwardArgs a, const Heads heads) {
  const int64_t i = global_thread();
  if (i >= a.rows * heads.columns) return;
  const int64_t row = i / heads.columns, column = i % heads.columns;
  int h = 0;
  int64_t j = column;
  for (; j >= heads.choices[h]; ++h) j -= heads.choices[h];
  const int64_t number = heads.first + h;
  const T maximum = load_at<T>(a.saved, row, 3 * number), log_sum = load_at<T>(a.saved, row, 3 * number + 1);
  const T entropy = load_at<T>(a.saved, row, 3 * number + 2);
  const T by_log_prob = load_at<T>(a.grad_log_prob, row, 0);
  const T x = logit_at<T>(a.logits, a.mask, row, heads.first_column + column);
  T gradient =
      categorical_gradient((x - maximum) - log_sum, entropy, by_log_prob, load_at<T>(a.grad_entropy, row, 0));
  if (j == checked_choice(a.actions, row, number, heads.choices[h])) gradient += by_log_prob;
  store_at(a.grad_logits, row, heads.first_column + column, gradient);
}

}  // namespace device
}  // namespace hotloop
