#include "reverse_scan.h"

#include "runs.h"
#include "scan_engine.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

template <class T>
struct ReverseScan {
  const ReverseScanParams& p;

  // y[T] enters through the last step: a[T-1] * last + b[T-1], after which nothing follows.
  void enter(int64_t row, int64_t count, T* a, T* b, T* scratch) const {
    if (p.last.data == nullptr) return;
    const T* last = load_along_rows(p.last, row, 0, count, scratch);
    for (int64_t i = 0; i < count; ++i) b[i] = affine<false>(a[i], last[i], b[i]);
    for (int64_t i = 0; i < count; ++i) a[i] = T(0);
  }

  void stage_time(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    copy_run<true>(p.a, row, t, count, a);
    copy_run<true>(p.b, row, t, count, b);
    if (t + count == p.horizon) enter(row, 1, a + count - 1, b + count - 1, s.run[0]);
  }
  void stage_rows(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>& s) const {
    copy_run<false>(p.a, row, t, count, a);
    copy_run<false>(p.b, row, t, count, b);
    if (t + 1 == p.horizon) enter(row, count, a, b, s.run[0]);
  }

  bool flat() const {
    return end_to_end<T>(p.a, p.horizon) && end_to_end<T>(p.b, p.horizon) && end_to_end<T>(p.out, p.horizon);
  }
  void stage_flat(int64_t row, int64_t rows, T* a, T* b) const {
    const size_t bytes = static_cast<size_t>(rows * p.horizon) * sizeof(T);
    std::memcpy(a, row_of<T>(p.a, row), bytes);
    std::memcpy(b, row_of<T>(p.b, row), bytes);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = (r + 1) * p.horizon - 1;
      T scratch;
      enter(row + r, 1, a + i, b + i, &scratch);
    }
  }
  T* flat_result(int64_t row) const { return row_of<T>(p.out, row); }
  void emit_flat(int64_t row, int64_t rows, const T* y, T*) const { put_flat(p.out, row, rows * p.horizon, y); }
  void emit_time(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>&) const {
    store_along_time(p.out, row, t, count, y);
  }
  void emit_rows(int64_t row, int64_t t, int64_t count, const T* y, Scratch<T>&) const {
    store_along_rows(p.out, row, t, count, y);
  }
};

template <class T>
struct ReverseScanBackward {
  const ReverseScanBackwardParams& p;

  void stage_time(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>&) const {
    const int64_t first = t == 0 ? 1 : 0;  // the first step has nothing before it
    if (first == 1) a[0] = T(0);
    if (count > first) copy_run<true>(p.a, row, t - 1 + first, count - first, a + first);
    copy_run<true>(p.grad, row, t, count, b);
  }
  void stage_rows(int64_t row, int64_t t, int64_t count, T* a, T* b, Scratch<T>&) const {
    if (t == 0) {
      for (int64_t i = 0; i < count; ++i) a[i] = T(0);
    } else {
      copy_run<false>(p.a, row, t - 1, count, a);
    }
    copy_run<false>(p.grad, row, t, count, b);
  }

  template <bool kTime>
  void emit(int64_t row, int64_t t, int64_t count, const T* l, Scratch<T>& s) const {
    store_run_at<kTime>(p.grad_b, row, t, count, l);
    const T* y_next = load_later<kTime>(p.y, p.last, p.horizon, row, t, count, s.run[0]);
    for (int64_t i = 0; i < count; ++i) s.run[1][i] = l[i] * y_next[i];
    store_run_at<kTime>(p.grad_a, row, t, count, s.run[1]);
    const int64_t end = kTime ? t + count : t + 1;
    if (end < p.horizon) return;
    const int64_t rows = kTime ? 1 : count;
    const T* a = load_along_rows(p.a, row, p.horizon - 1, rows, s.run[0]);
    const T* l_last = kTime ? l + count - 1 : l;
    for (int64_t i = 0; i < rows; ++i) s.run[1][i] = a[i] * l_last[i];
    store_along_rows(p.grad_last, row, 0, rows, s.run[1]);
  }
  void emit_time(int64_t row, int64_t t, int64_t count, const T* l, Scratch<T>& s) const {
    emit<true>(row, t, count, l, s);
  }
  void emit_rows(int64_t row, int64_t t, int64_t count, const T* l, Scratch<T>& s) const {
    emit<false>(row, t, count, l, s);
  }
};

template <class T>
void run(const ReverseScanParams& p) {
  const int64_t bytes = p.rows * p.horizon * 3 * static_cast<int64_t>(sizeof(T));
  scan_from_last<false, T>(ReverseScan<T>{p}, p.rows, p.horizon, rows_are_lanes(p.b), bytes);
}

template <class T>
void run_backward(const ReverseScanBackwardParams& p) {
  if (p.horizon == 0) return store_zeros(p.grad_last, p.rows);
  const int64_t bytes = p.rows * p.horizon * 5 * static_cast<int64_t>(sizeof(T));
  scan_from_first<false, T>(ReverseScanBackward<T>{p}, p.rows, p.horizon, rows_are_lanes(p.a), bytes);
}

}  // namespace

// Half-precision values are computed in float and rounded once, when they are stored.
void reverse_scan(const ReverseScanParams& p) {
  if (p.b.dtype == DType::f64) {
    run<double>(p);
  } else {
    run<float>(p);
  }
}

void reverse_scan_backward(const ReverseScanBackwardParams& p) {
  if (p.grad.dtype == DType::f64) {
    run_backward<double>(p);
  } else {
    run_backward<float>(p);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
