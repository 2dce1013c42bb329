// What the categorical ops are asked to do: the boundary into their kernels, on every device.
#pragma once
#include "philox.h"
#include "view.h"

namespace hotloop {

// One or several independent categorical choices a row, their logits side by side: A = sum of `choices`.
// Draws where `draw`, otherwise reads the actions. Arithmetic is in T = dtype of log_prob, sums in float64.
struct CategoricalParams {
  int64_t rows = 0;
  int64_t heads = 0;
  const int64_t* choices = nullptr;  // [k]
  Matrix logits;                     // [N, A]
  Matrix mask;                       // [N, A] bool or absent; every head of every row has a true entry
  Matrix actions;                    // [N, k] integers; written (int32 or int64) where `draw`
  Matrix log_prob, entropy;          // [N], written; where it draws, entropy may be absent
  Matrix saved;                      // [N, 3k] or absent, written: maximum, log_sum, entropy of each head
  Matrix log_probs;                  // [N, A] or absent, written: those of all choices
  bool draw = false;
  uint64_t seed = 0, step = 0;
  uint64_t first_row = 0;  // what row 0 is called where it draws
};

// Gradient of sum_n grad_log_prob[n] log_prob[n] + grad_entropy[n] entropy[n] with respect to the logits.
struct CategoricalBackwardParams {
  int64_t rows = 0;
  int64_t heads = 0;
  const int64_t* choices = nullptr;
  Matrix grad_log_prob, grad_entropy;  // [N]
  Matrix logits, mask, actions;        // as above
  Matrix saved;                        // [N, 3k], as written above
  Matrix grad_logits;                  // [N, A], written; dtype of logits
};

}  // namespace hotloop
