// Departure-indexed inputs, read in runs along time or along rows.
#pragma once
#include "isa_namespace.h"
#include "../core/estimator_args.h"
#include "../core/recurrence.h"
#include "discounts.h"
#include "runs.h"
#include "scan_engine.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

// One run of every input. Flags are T, or bytes where all of them lie in memory as bytes without gaps; absent ones
// and what belongs to them are not read.
template <class T>
struct DepartureRun {
  const T *reward, *value, *next, *baseline, *truncation_value, *ratio;
  const void *terminated, *truncated, *valid;
};

// The same with the type of the flags known, and whether there are others than `terminated` (kOptional: both, the
// absent one as a constant): one loop is compiled for each combination.
template <class T, class Flag, bool kOptional>
struct Steps {
  const T *reward, *value, *next, *baseline, *truncation_value, *ratio;
  const Flag *terminated, *truncated, *valid;

  explicit Steps(const DepartureRun<T>& r)
      : reward(r.reward),
        value(r.value),
        next(r.next),
        baseline(r.baseline),
        truncation_value(r.truncation_value),
        ratio(r.ratio),
        terminated(static_cast<const Flag*>(r.terminated)),
        truncated(static_cast<const Flag*>(r.truncated)),
        valid(static_cast<const Flag*>(r.valid)) {}

  bool is_valid(int64_t i) const { return !kOptional || valid[i] != Flag(0); }
  bool ends(int64_t i) const {
    return kOptional ? (terminated[i] != Flag(0)) | (truncated[i] != Flag(0)) : terminated[i] != Flag(0);
  }
  bool is_cut_short(int64_t i) const {
    return kOptional ? (truncated[i] != Flag(0)) & (terminated[i] == Flag(0)) : false;
  }
  T bootstrap(int64_t i) const {
    T following = next[i];
    if (kOptional) {
      const T final_observation = truncation_value[i];
      following = truncated[i] != Flag(0) ? final_observation : following;
    }
    return terminated[i] != Flag(0) ? T(0) : following;
  }
};

static inline bool same_view(const Matrix& a, const Matrix& b) {
  return a.data == b.data && a.dtype == b.dtype && a.row_stride == b.row_stride && a.time_stride == b.time_stride;
}

template <class T>
struct DepartureReader {
  const DepartureArgs& d;
  int ratio_shift;  // 1: a step needs the ratio of the next step
  bool bytes;

  DepartureReader(const DepartureArgs& args, bool lanes, int shift)
      : d(args), ratio_shift(shift), bytes(bytes_along(lanes)) {}

  bool bytes_along(bool lanes) const {
    for (const Matrix* m : {&d.terminated, &d.truncated, &d.valid}) {
      if (m->data == nullptr) continue;
      if (itemsize(m->dtype) != 1 || (lanes ? m->row_stride : m->time_stride) != 1) return false;
    }
    return true;
  }

  // Whether all inputs lie end to end, so that whole rows can be read as one run.
  bool flat() const {
    if (per_row(d.discounts)) return false;
    for (const Matrix* m : {&d.terminated, &d.truncated, &d.valid}) {
      if (m->data == nullptr) continue;
      const bool contiguous = m->row_stride == d.horizon && m->time_stride == 1;
      if (!contiguous || (!bytes && m->dtype != DTypeOf<T>::value)) return false;
    }
    for (const Matrix* m :
         {&d.rewards, &d.values, &d.next_values, &d.baseline, &d.truncation_values, &d.importance}) {
      if (m->data != nullptr && !end_to_end<T>(*m, d.horizon)) return false;
    }
    return true;
  }

  template <bool kTime>
  const void* flag(const Matrix& m, int64_t row, int64_t t, int64_t count, T* scratch) const {
    if (bytes && m.data != nullptr) return m.data + row * m.row_stride + t * m.time_stride;
    return load_or_zeros<kTime>(m, row, t, count, scratch);
  }

  // Uses the scratch runs [0, 9).
  template <bool kTime>
  DepartureRun<T> load(int64_t row, int64_t t, int64_t count, Scratch<T>& s) const {
    DepartureRun<T> run;
    run.terminated = flag<kTime>(d.terminated, row, t, count, s.run[0]);
    run.truncated = flag<kTime>(d.truncated, row, t, count, s.run[1]);
    run.valid = flag<kTime>(d.valid, row, t, count, s.run[2]);
    run.reward = load_or_zeros<kTime>(d.rewards, row, t, count, s.run[3]);
    run.value = load_or_zeros<kTime>(d.values, row, t, count, s.run[4]);
    run.next = d.next_values.data != nullptr
                   ? load_or_zeros<kTime>(d.next_values, row, t, count, s.run[5])
                   : load_later<kTime>(d.values, d.last_values, d.horizon, row, t, count, s.run[5]);
    run.baseline =
        same_view(d.baseline, d.values) ? run.value : load_or_zeros<kTime>(d.baseline, row, t, count, s.run[6]);
    run.truncation_value = load_or_zeros<kTime>(d.truncation_values, row, t, count, s.run[7]);
    run.ratio = ratio_shift != 0 ? load_later<kTime>(d.importance, Matrix{}, d.horizon, row, t, count, s.run[8])
                                 : load_or_zeros<kTime>(d.importance, row, t, count, s.run[8]);
    return run;
  }

  // From the first step of `row` on, over the ends of rows: `next` (and a shifted ratio) of a row's last step is
  // what the next row holds, and wrong.
  DepartureRun<T> load_flat(int64_t row) const {
    const auto at = [&](const Matrix& m) { return m.data != nullptr ? row_of<T>(m, row) : kZeros<T>; };
    const auto flag_at = [&](const Matrix& m) -> const void* {
      return m.data == nullptr ? nullptr : bytes ? m.data + row * d.horizon : static_cast<const void*>(at(m));
    };
    DepartureRun<T> run;
    run.terminated = flag_at(d.terminated);
    run.truncated = flag_at(d.truncated);
    run.valid = flag_at(d.valid);
    run.reward = at(d.rewards);
    run.value = at(d.values);
    run.next = d.values.data == nullptr        ? kZeros<T>
               : d.next_values.data != nullptr ? at(d.next_values)
                                               : run.value + 1;
    run.baseline = at(d.baseline);
    run.truncation_value = at(d.truncation_values);
    run.ratio = d.importance.data != nullptr ? at(d.importance) + ratio_shift : kZeros<T>;
    return run;
  }

  // The last step of `row` alone, from what load_flat gave; its index in that is `i`.
  DepartureRun<T> last_of_flat(DepartureRun<T> run, int64_t row, int64_t i, T* scratch) const {
    const int64_t flag_bytes = i * (bytes ? 1 : static_cast<int64_t>(sizeof(T)));
    const auto flag_at = [&](const void* flags) -> const void* {
      return flags == nullptr ? nullptr : static_cast<const char*>(flags) + flag_bytes;
    };
    for (const void** flags : {&run.terminated, &run.truncated, &run.valid}) *flags = flag_at(*flags);
    for (const T** each : {&run.reward, &run.value, &run.baseline, &run.truncation_value}) *each += i;
    run.next =
        d.next_values.data != nullptr ? run.next + i : load_or_zeros<false>(d.last_values, row, 0, 1, scratch);
    run.ratio = ratio_shift != 0 ? kZeros<T> : run.ratio + i;
    return run;
  }

  // A run of one step, its flags copied into `flags` so that they are all there and of one type.
  Steps<T, T, true> single(DepartureRun<T> run, T* flags) const {
    const auto value = [&](const Matrix& m, const void* flag, T otherwise) {
      if (m.data == nullptr) return otherwise;
      return bytes ? static_cast<T>(*static_cast<const uint8_t*>(flag)) : *static_cast<const T*>(flag);
    };
    flags[0] = value(d.terminated, run.terminated, T(0));
    flags[1] = value(d.truncated, run.truncated, T(0));
    flags[2] = value(d.valid, run.valid, T(1));
    run.terminated = flags;
    run.truncated = flags + 1;
    run.valid = flags + 2;
    return Steps<T, T, true>(run);
  }

  template <class Flag>
  Steps<T, Flag, true> with_optional(DepartureRun<T> run) const {
    if (d.truncated.data == nullptr) run.truncated = kZeros<Flag>;
    if (d.valid.data == nullptr) run.valid = kOnes<Flag>.value;
    return Steps<T, Flag, true>(run);
  }

  // Calls body(steps) with the loop's types known. kLean: compiled for `terminated` alone, too.
  template <bool kLean, class Body>
  void with_steps(const DepartureRun<T>& run, const Body& body) const {
    if constexpr (kLean) {
      if (d.truncated.data == nullptr && d.valid.data == nullptr) {
        if (bytes) return body(Steps<T, uint8_t, false>(run));
        return body(Steps<T, T, false>(run));
      }
    }
    if (bytes) return body(with_optional<uint8_t>(run));
    body(with_optional<T>(run));
  }
};

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
