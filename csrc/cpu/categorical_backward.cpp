#include "../core/categorical.h"
#include "categorical.h"
#include "categorical_rows.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

// What a row of one head needs besides its logits, staged for a block of rows.
template <class T>
struct Rows {
  alignas(64) T scratch[5][kBlockRows];
  alignas(64) int64_t taken[kBlockRows];
  const T *grad_log_prob, *grad_entropy, *maximum, *log_sum, *entropy;
};

template <class T>
void rows_as_lanes(const CategoricalBackwardParams& p, int64_t row, int64_t rows, int64_t head, int64_t first,
                   const Rows<T>& v, Columns<T>& x) {
  const int64_t n = p.choices[head];
  load_logits(p.logits, p.mask, row, first, rows, n, x);
  for (int64_t j = 0; j < n; ++j) {
    T* at = x.at[j];
    const T *maximum = v.maximum, *log_sum = v.log_sum, *entropy = v.entropy;
    for (int64_t r = 0; r < rows; ++r) {
      at[r] = categorical_gradient((at[r] - maximum[r]) - log_sum[r], entropy[r], v.grad_log_prob[r],
                                   v.grad_entropy[r]);
    }
  }
  for (int64_t r = 0; r < rows; ++r) x.at[v.taken[r]][r] += v.grad_log_prob[r];
  store_columns(p.grad_logits, row, first, rows, n, x);
}

template <class T>
void choices_as_lanes(const CategoricalBackwardParams& p, int64_t row, int64_t rows, int64_t head, int64_t first,
                      const Rows<T>& v) {
  const int64_t n = p.choices[head];
  alignas(64) T staged[kRun], gradient[kRun];
  for (int64_t r = 0; r < rows; ++r) {
    const T grad_log_prob = v.grad_log_prob[r], grad_entropy = v.grad_entropy[r];
    const T maximum = v.maximum[r], log_sum = v.log_sum[r], entropy = v.entropy[r];
    const int64_t taken = v.taken[r];
    for (int64_t at = 0; at < n; at += kRun) {
      const int64_t count = n - at < kRun ? n - at : kRun;
      const T* x = load_logits_run(p.logits, p.mask, row + r, first + at, count, staged);
      for (int64_t i = 0; i < count; ++i) {
        gradient[i] = categorical_gradient((x[i] - maximum) - log_sum, entropy, grad_log_prob, grad_entropy);
      }
      if (taken >= at && taken < at + count) gradient[taken - at] += grad_log_prob;
      store_along_time(p.grad_logits, row + r, first + at, count, gradient);
    }
  }
}

template <class T>
void run_block(const CategoricalBackwardParams& p, int64_t row, int64_t rows) {
  Columns<T> x;
  Rows<T> v;
  v.grad_log_prob = load_along_rows(p.grad_log_prob, row, 0, rows, v.scratch[0]);
  v.grad_entropy = load_along_rows(p.grad_entropy, row, 0, rows, v.scratch[1]);
  int64_t first = 0;
  for (int64_t head = 0; head < p.heads; first += p.choices[head++]) {
    v.maximum = load_along_rows(p.saved, row, 3 * head, rows, v.scratch[2]);
    v.log_sum = load_along_rows(p.saved, row, 3 * head + 1, rows, v.scratch[3]);
    v.entropy = load_along_rows(p.saved, row, 3 * head + 2, rows, v.scratch[4]);
    load_choices(p.actions, row, head, rows, p.choices[head], v.taken);
    if (p.choices[head] <= kMaxColumns) {
      rows_as_lanes(p, row, rows, head, first, v, x);
    } else {
      choices_as_lanes(p, row, rows, head, first, v);
    }
  }
}

template <class T>
void run(const CategoricalBackwardParams& p) {
  int64_t columns = 0;
  for (int64_t head = 0; head < p.heads; ++head) columns += p.choices[head];
  const int64_t bytes = 4 * p.rows * columns * static_cast<int64_t>(sizeof(T));
  parallel_blocks((p.rows + kBlockRows - 1) / kBlockRows, bytes, [&](int64_t block) {
    const int64_t row = block * kBlockRows;
    run_block<T>(p, row, p.rows - row < kBlockRows ? p.rows - row : kBlockRows);
  });
}

}  // namespace

void categorical_backward(const CategoricalBackwardParams& p) {
  if (p.saved.dtype == DType::f64) {
    run<double>(p);
  } else {
    run<float>(p);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
