// One step of Adam on one number: Kingma & Ba 2015, with the weight decay of Loshchilov & Hutter 2019 on request.
#pragma once
#include <cmath>

#include "dtype.h"

namespace hotloop {

// What a step multiplies by, the same for every number of a tensor.
template <class T>
struct AdamRates {
  T sign;          // of the gradient: -1 to maximise
  T l2;            // weight decay that is added to the gradient; 0 where it is decoupled
  T keep;          // decoupled weight decay: what is kept of the parameter, 1 - lr * decay
  bool from_mean;  // whether the mean moves to the gradient by 1 - beta1, or the gradient to the mean by beta1
  T move;          // the smaller of the two weights: the mean of equal gradients is then exactly the gradient
  T beta2, square_weight;  // beta2 and 1 - beta2
  T step_size;             // lr / (1 - beta1^t)
  T root_scale;            // 1 / sqrt(1 - beta2^t)
  T eps;
};

struct AdamSettings {
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
  bool decoupled = false, maximize = false;
};

// `step` counts from 1.
template <class T>
HL_HD AdamRates<T> adam_rates(const AdamSettings& s, double step) {
  AdamRates<T> r;
  r.sign = s.maximize ? T(-1) : T(1);
  r.l2 = s.decoupled ? T(0) : static_cast<T>(s.weight_decay);
  r.keep = s.decoupled ? static_cast<T>(1 - s.lr * s.weight_decay) : T(1);
  r.from_mean = s.beta1 > 0.5;
  r.move = static_cast<T>(r.from_mean ? 1 - s.beta1 : s.beta1);
  r.beta2 = static_cast<T>(s.beta2);
  r.square_weight = static_cast<T>(1 - s.beta2);
  r.step_size = static_cast<T>(s.lr / (1 - ::pow(s.beta1, step)));
  r.root_scale = static_cast<T>(1 / ::sqrt(1 - ::pow(s.beta2, step)));
  r.eps = static_cast<T>(s.eps);
  return r;
}

// kL2: whether weight decay is added to the gradient. Without it an infinite parameter must not reach the means.
template <bool kL2, class T>
HL_HD void adam_update(const AdamRates<T>& r, T gradient, T* parameter, T* mean, T* square) {
  T g = gradient * r.sign;
  T p = *parameter * r.keep;
  if (kL2) g = g + r.l2 * *parameter;
  const T from = r.from_mean ? *mean : g;
  const T to = r.from_mean ? g : *mean;
  const T m = from + r.move * (to - from);
  const T v = *square * r.beta2 + r.square_weight * g * g;
  *mean = m;
  *square = v;
  // The root and what follows it are float64 for float32 too, on every device alike.
  const double root = ::sqrt(static_cast<double>(v));
  *parameter = static_cast<T>(p - r.step_size * m / (root * r.root_scale + r.eps));
}

}  // namespace hotloop
