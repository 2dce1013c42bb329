// The categorical distribution of one row, from logits shifted by their maximum: x = logit - max, log_sum =
// log(sum e^x), H the entropy.
#pragma once
#include "exponential.h"

namespace hotloop {

// -p log p times the sum, for weight = e^x: 0 for a choice of probability 0, although log p is -infinity.
template <class T>
HL_HD T entropy_term(T weight, T x) {
  return weight == T(0) ? T(0) : weight * -x;
}

// d(loss) / d(logit) of a choice but for the 1[chosen] grad_log_prob of the one that was taken: with log p = x -
// log_sum it is -p (grad_log_prob + grad_entropy (log p + H)).
template <class T>
HL_HD T categorical_gradient(T log_p, T entropy, T grad_log_prob, T grad_entropy) {
  const T p = exponential(log_p);
  const T gradient = -(p * (grad_log_prob + grad_entropy * (log_p + entropy)));
  return p == T(0) ? T(0) : gradient;
}

}  // namespace hotloop
