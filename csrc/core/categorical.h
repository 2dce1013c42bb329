// The categorical distribution of one row, from logits shifted by their maximum: x = logit - max, log_sum =
// log(sum e^x), H the entropy.
#pragma once
#include "exponential.h"

namespace hotloop {

// Heads of more choices than this are summed along their rows, in the order of `choices_a_part`.
constexpr int64_t kNarrowHead = 32;
constexpr int64_t kChoicesARun = 256;
constexpr int64_t kMaxParts = 256;

// A wide head is summed part by part, each a multiple of a run: 16 partial sums, then pairwise.
HL_HD int64_t choices_a_part(int64_t choices) {
  return kChoicesARun * ((choices + kChoicesARun * kMaxParts - 1) / (kChoicesARun * kMaxParts));
}

// A logarithm of which only that its exponential is 0 is known, as a number: 0 * -infinity would be NaN.
template <class T>
HL_HD T finite_log(T x) {
  return x < T(-1e4) ? T(-1e4) : x;
}

// -p log p times the sum, for weight = e^x.
template <class T>
HL_HD T entropy_term(T weight, T x) {
  return weight * -finite_log(x);
}

// d(loss) / d(logit) of a choice but for the 1[chosen] grad_log_prob of the one that was taken: with log p = x -
// log_sum it is -p (grad_log_prob + grad_entropy (log p + H)).
template <class T>
HL_HD T categorical_gradient(T log_p, T entropy, T grad_log_prob, T grad_entropy) {
  log_p = finite_log(log_p);
  return -(exponential(log_p) * (grad_log_prob + grad_entropy * (log_p + entropy)));
}

}  // namespace hotloop
