#include "categorical.h"

#include "../core/categorical.h"
#include "categorical_rows.h"
#include "lanes64.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

// One head of a block of rows: what comes out, besides the sums over heads.
template <class T>
struct Block {
  alignas(64) double sum[kBlockRows];       // sum of e^x
  alignas(64) double scatter[kBlockRows];   // sum of e^x (-x)
  alignas(64) double uniform[kBlockRows];   // [0, 1)
  alignas(64) T maximum[kBlockRows];
  alignas(64) T taken[kBlockRows];          // x of the action
  alignas(64) int64_t choice[kBlockRows];
};

// The sums of a head of two choices from one exponential: that of the larger logit is 1. The bits are those of the
// general way; 0 times a number that is not finite is NaN.
template <class T>
void two_choices(bool draw, int64_t rows, Block<T>& b, const Columns<T>& x) {
  const T* __restrict x0 = x.at[0];
  const T* __restrict x1 = x.at[1];
  if (!draw) {
    for (int64_t r = 0; r < rows; ++r) b.taken[r] = b.choice[r] != 0 ? x1[r] : x0[r];
  }
  alignas(64) T weight[kBlockRows], shifted[kBlockRows], whole[kBlockRows], term[kBlockRows], second[kBlockRows];
  for (int64_t r = 0; r < rows; ++r) {
    const bool larger_is_second = x1[r] > x0[r];
    const T larger = larger_is_second ? x1[r] : x0[r];
    b.maximum[r] = larger;
    second[r] = larger_is_second ? T(1) : T(0);
    shifted[r] = (larger_is_second ? x0[r] : x1[r]) - larger;
    weight[r] = exponential(shifted[r]);
    term[r] = entropy_term(weight[r], shifted[r]) + larger * T(0);
    whole[r] = T(1) + larger * T(0);
  }
  for (int64_t r = 0; r < rows; ++r) {
    b.sum[r] = static_cast<double>(whole[r]) + static_cast<double>(weight[r]);
    b.scatter[r] = static_cast<double>(term[r]);
  }
  if (!draw) {
    for (int64_t r = 0; r < rows; ++r) b.taken[r] -= b.maximum[r];
    return;
  }
  // By inversion: the second, where what the first makes of the sum is passed.
  for (int64_t r = 0; r < rows; ++r) {
    const double first_weight = static_cast<double>(second[r] != T(0) ? weight[r] : whole[r]);
    b.choice[r] = first_weight <= b.uniform[r] * b.sum[r] ? 1 : 0;
  }
  for (int64_t r = 0; r < rows; ++r) {
    const bool larger = (b.choice[r] != 0) == (second[r] != T(0));
    b.taken[r] = larger ? T(0) + b.maximum[r] * T(0) : shifted[r];
  }
}

// By inversion, from weights that are in `x`.
template <class T>
void draw_choices(const CategoricalParams& p, int64_t row, int64_t rows, int64_t head, int64_t first, int64_t n,
                  Block<T>& b, const Columns<T>& x) {
  alignas(64) double end[kBlockRows], point[kBlockRows];
  for (int64_t r = 0; r < rows; ++r) end[r] = 0, b.choice[r] = 0, point[r] = b.uniform[r] * b.sum[r];
  for (int64_t j = 0; j < n; ++j) {
    const T* __restrict v = x.at[j];
    for (int64_t r = 0; r < rows; ++r) {
      end[r] += static_cast<double>(v[r]);
      b.choice[r] += end[r] <= point[r] ? 1 : 0;
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    b.taken[r] = one_logit<T>(p.logits, p.mask, row + r, first + b.choice[r]) - b.maximum[r];
    store_choice(p.actions, row + r, head, b.choice[r]);
  }
}

// Sums in float64 are what makes inversion exact where float32 rounds: a choice of probability 1e-12 is drawn as
// rarely as that, and one of probability 0 never (the comparison is strict, and the last cumulated sum is `sum`).
template <class T>
void rows_as_lanes(const CategoricalParams& p, int64_t row, int64_t rows, int64_t head, int64_t first, Block<T>& b,
                   Columns<T>& x) {
  const int64_t n = p.choices[head];
  load_logits(p.logits, p.mask, row, first, rows, n, x);
  if (n == 2) {
    two_choices(p.draw, rows, b, x);
    for (int64_t r = 0; p.draw && r < rows; ++r) store_choice(p.actions, row + r, head, b.choice[r]);
    return;
  }
  for (int64_t r = 0; r < rows; ++r) b.maximum[r] = x.at[0][r], b.sum[r] = 0, b.scatter[r] = 0;
  for (int64_t j = 1; j < n; ++j) {
    const T* __restrict v = x.at[j];
    for (int64_t r = 0; r < rows; ++r) b.maximum[r] = v[r] > b.maximum[r] ? v[r] : b.maximum[r];
  }
  if (!p.draw) {
    for (int64_t r = 0; r < rows; ++r) b.taken[r] = x.at[b.choice[r]][r] - b.maximum[r];
  }
  alignas(64) T weight[kBlockRows], term[kBlockRows];
  for (int64_t j = 0; j < n; ++j) {
    T* __restrict v = x.at[j];
    for (int64_t r = 0; r < rows; ++r) {
      const T shifted = v[r] - b.maximum[r];
      weight[r] = exponential(shifted);
      term[r] = entropy_term(weight[r], shifted);
    }
    if (p.draw) std::memcpy(v, weight, sizeof weight);
    for (int64_t r = 0; r < rows; ++r) {
      b.sum[r] += static_cast<double>(weight[r]);
      b.scatter[r] += static_cast<double>(term[r]);
    }
  }
  if (p.draw) draw_choices(p, row, rows, head, first, n, b, x);
}

template <class T>
T reduce_maximum(T* lane) {
  for (int64_t width = kSumLanes / 2; width > 0; width /= 2) {
    for (int64_t j = 0; j < width; ++j) lane[j] = lane[j + width] > lane[j] ? lane[j + width] : lane[j];
  }
  return lane[0];
}

double reduce_sum(double* lane) {
  for (int64_t width = kSumLanes / 2; width > 0; width /= 2) {
    for (int64_t j = 0; j < width; ++j) lane[j] += lane[j + width];
  }
  return lane[0];
}

// A row of many choices: choices are the lanes. The sum is built from those of at most kParts parts, which lead a
// draw to its part without a second exponential of all choices.
template <class T>
class LongRow {
 public:
  LongRow(const CategoricalParams& p, int64_t row, int64_t first, int64_t n)
      : p_(p), row_(row), first_(first), n_(n), part_(choices_a_part(n)) {}

  T maximum() {
    alignas(64) T lane[kSumLanes];
    for (T& each : lane) each = -std::numeric_limits<T>::infinity();
    for (int64_t at = 0; at < n_; at += kRun) {
      const int64_t count = load(at);
      int64_t i = 0;
      for (; i + kSumLanes <= count; i += kSumLanes) {
        for (int64_t l = 0; l < kSumLanes; ++l) lane[l] = x_[i + l] > lane[l] ? x_[i + l] : lane[l];
      }
      for (; i < count; ++i) lane[i % kSumLanes] = x_[i] > lane[i % kSumLanes] ? x_[i] : lane[i % kSumLanes];
    }
    return maximum_ = reduce_maximum(lane);
  }

  void sums(double* sum, double* scatter) {
    *sum = *scatter = 0;
    for (int64_t part = 0; part * part_ < n_; ++part) {
      alignas(64) double sums[kSumLanes] = {}, scatters[kSumLanes] = {};
      for (int64_t at = part * part_; at < n_ && at < (part + 1) * part_; at += kRun) {
        const int64_t count = weigh(at);
        int64_t i = 0;
        for (; i + kSumLanes <= count; i += kSumLanes) {
          for (int64_t l = 0; l < kSumLanes; ++l) {
            sums[l] += static_cast<double>(weight_[i + l]);
            scatters[l] += static_cast<double>(term_[i + l]);
          }
        }
        for (; i < count; ++i) {
          sums[i % kSumLanes] += static_cast<double>(weight_[i]);
          scatters[i % kSumLanes] += static_cast<double>(term_[i]);
        }
      }
      *sum += sums_[part] = reduce_sum(sums);
      *scatter += reduce_sum(scatters);
    }
  }

  int64_t draw(double point) {
    int64_t part = 0;
    double end = 0;
    while ((part + 1) * part_ < n_ && end + sums_[part] <= point) end += sums_[part++];
    // Within the part the order of the sum is another one: should rounding pass its end, the last possible choice.
    int64_t possible = part * part_;
    for (int64_t at = part * part_; at < n_ && at < (part + 1) * part_; at += kRun) {
      const int64_t count = weigh(at);
      for (int64_t i = 0; i < count; ++i) {
        if (weight_[i] > T(0)) possible = at + i;
        end += static_cast<double>(weight_[i]);
        if (end > point) return at + i;
      }
    }
    return possible;
  }

 private:
  int64_t load(int64_t at) {
    const int64_t count = n_ - at < kRun ? n_ - at : kRun;
    x_ = load_logits_run(p_.logits, p_.mask, row_, first_ + at, count, staged_);
    return count;
  }

  int64_t weigh(int64_t at) {
    const int64_t count = load(at);
    const T* __restrict x = x_;
    for (int64_t i = 0; i < count; ++i) {
      const T shifted = x[i] - maximum_;
      weight_[i] = exponential(shifted);
      term_[i] = entropy_term(weight_[i], shifted);
    }
    return count;
  }

  const CategoricalParams& p_;
  const int64_t row_, first_, n_, part_;
  T maximum_ = 0;
  const T* x_ = nullptr;
  alignas(64) T staged_[kRun];
  alignas(64) T weight_[kRun];
  alignas(64) T term_[kRun];
  double sums_[kMaxParts];
};

template <class T>
void choices_as_lanes(const CategoricalParams& p, int64_t row, int64_t rows, int64_t head, int64_t first,
                      Block<T>& b) {
  const int64_t n = p.choices[head];
  for (int64_t r = 0; r < rows; ++r) {
    LongRow<T> long_row(p, row + r, first, n);
    b.maximum[r] = long_row.maximum();
    long_row.sums(&b.sum[r], &b.scatter[r]);
    if (p.draw) {
      b.choice[r] = long_row.draw(b.uniform[r] * b.sum[r]);
      store_choice(p.actions, row + r, head, b.choice[r]);
    }
    b.taken[r] = one_logit<T>(p.logits, p.mask, row + r, first + b.choice[r]) - b.maximum[r];
  }
}

// Row n draws with the bits number first_row + n of the stream of its head.
void uniforms(const CategoricalParams& p, int64_t row, int64_t head, double* out) {
  const RandomKey key{p.seed, static_cast<uint32_t>(p.step >> 32), static_cast<uint32_t>(p.step),
                      kStreamCategorical + (static_cast<uint32_t>(head) << kStreamBits)};
  const uint64_t first = p.first_row + static_cast<uint64_t>(row);
  const int64_t odd = static_cast<int64_t>(first & 1);  // lanes start at an even number
  alignas(64) uint64_t bits[kBlockRows + kPhiloxValues];
  for (int64_t r = 0; r < kBlockRows + odd; r += kPhiloxValues) {
    random_lanes(key, first - static_cast<uint64_t>(odd) + static_cast<uint64_t>(r), bits + r);
  }
  uniform_run(bits + odd, kBlockRows, out);
}

// Of all choices of one head: the logits are still in the cache.
template <class T>
void store_log_probs(const CategoricalParams& p, int64_t row, int64_t rows, int64_t head, int64_t first,
                     const Block<T>& b, const T* log_sum, Columns<T>& x) {
  const int64_t n = p.choices[head];
  if (n <= kMaxColumns) {
    load_logits(p.logits, p.mask, row, first, rows, n, x);
    for (int64_t j = 0; j < n; ++j) {
      T* __restrict v = x.at[j];
      for (int64_t r = 0; r < rows; ++r) v[r] = (v[r] - b.maximum[r]) - log_sum[r];
    }
    store_columns(p.log_probs, row, first, rows, n, x);
    return;
  }
  alignas(64) T staged[kRun], out[kRun];
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t at = 0; at < n; at += kRun) {
      const int64_t count = n - at < kRun ? n - at : kRun;
      const T* v = load_logits_run(p.logits, p.mask, row + r, first + at, count, staged);
      for (int64_t i = 0; i < count; ++i) out[i] = (v[i] - b.maximum[r]) - log_sum[r];
      store_along_time(p.log_probs, row + r, first + at, count, out);
    }
  }
}

template <class T>
void run_block(const CategoricalParams& p, int64_t row, int64_t rows) {
  Columns<T> x;
  Block<T> b;
  alignas(64) double log_prob[kBlockRows], entropy[kBlockRows], log_sum[kBlockRows];
  alignas(64) T out[kBlockRows];
  int64_t first = 0;
  for (int64_t r = rows; r < kBlockRows; ++r) b.sum[r] = 1;  // log_run reads whole vectors
  for (int64_t head = 0; head < p.heads; first += p.choices[head++]) {
    if (p.draw) {
      uniforms(p, row, head, b.uniform);
    } else {
      load_choices(p.actions, row, head, rows, p.choices[head], b.choice);
    }
    if (p.choices[head] <= kMaxColumns) {
      rows_as_lanes(p, row, rows, head, first, b, x);
    } else {
      choices_as_lanes(p, row, rows, head, first, b);
    }
    log_run(b.sum, kBlockRows, log_sum);
    alignas(64) double h[kBlockRows];
    for (int64_t r = 0; r < rows; ++r) {
      const double chosen = static_cast<double>(b.taken[r]) - log_sum[r];
      log_prob[r] = head == 0 ? chosen : log_prob[r] + chosen;
    }
    if (p.entropy.data != nullptr) {
      for (int64_t r = 0; r < rows; ++r) {
        h[r] = log_sum[r] + b.scatter[r] / b.sum[r];  // both terms are >= 0: nothing cancels
        entropy[r] = head == 0 ? h[r] : entropy[r] + h[r];
      }
    }
    for (int64_t r = 0; r < rows; ++r) out[r] = static_cast<T>(log_sum[r]);
    if (p.log_probs.data != nullptr) store_log_probs(p, row, rows, head, first, b, out, x);
    if (p.saved.data == nullptr) continue;
    store_along_rows(p.saved, row, 3 * head, rows, b.maximum);
    store_along_rows(p.saved, row, 3 * head + 1, rows, out);
    for (int64_t r = 0; r < rows; ++r) out[r] = static_cast<T>(h[r]);
    store_along_rows(p.saved, row, 3 * head + 2, rows, out);
  }
  for (int64_t r = 0; r < rows; ++r) out[r] = static_cast<T>(log_prob[r]);
  store_along_rows(p.log_prob, row, 0, rows, out);
  if (p.entropy.data == nullptr) return;
  for (int64_t r = 0; r < rows; ++r) out[r] = static_cast<T>(entropy[r]);
  store_along_rows(p.entropy, row, 0, rows, out);
}

template <class T>
void run(const CategoricalParams& p) {
  int64_t columns = 0;
  for (int64_t head = 0; head < p.heads; ++head) columns += p.choices[head];
  // An exponential and a few sums an element take as long as copying it some four times.
  const int64_t bytes = 4 * p.rows * columns * static_cast<int64_t>(sizeof(T));
  parallel_blocks((p.rows + kBlockRows - 1) / kBlockRows, bytes, [&](int64_t block) {
    const int64_t row = block * kBlockRows;
    run_block<T>(p, row, p.rows - row < kBlockRows ? p.rows - row : kBlockRows);
  });
}

}  // namespace

void categorical(const CategoricalParams& p) {
  if (p.log_prob.dtype == DType::f64) {
    run<double>(p);
  } else {
    run<float>(p);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
