// Orders that the sampling laws need, without sorting more than they use.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace hotloop {

struct Arrival {
  double time;
  int64_t index;
  bool operator<(const Arrival& other) const {
    return time < other.time || (time == other.time && index < other.index);
  }
};

// A handful is sorted by insertion; more would come of times that crowd into few buckets.
template <class T>
void sort_few(T* begin, T* end) {
  if (end - begin > 24) {
    std::sort(begin, end);
    return;
  }
  for (T* i = begin + 1; i < end; ++i) {
    const T moved = *i;
    T* j = i;
    for (; j > begin && moved < j[-1]; --j) *j = j[-1];
    *j = moved;
  }
}

// The first `count` arrivals of a race whose rates add up to `rate`, in order, at the front of `*arrivals`.
//
// Times are dealt into buckets of equal width: near the start arrivals are a Poisson process of that rate, so a
// bucket holds about one of them. Whatever is later than the last bucket, as with rates of many magnitudes, shares
// one more bucket, which is split by selection only if it is reached.
inline void first_arrivals(const double* times, int64_t size, int64_t count, double rate,
                           std::vector<uint32_t>* offsets, std::vector<Arrival>* arrivals) {
  int64_t buckets = 16;
  while (buckets < count && buckets < (int64_t{1} << 18)) buckets *= 2;
  const double scale = 0.5 * rate * static_cast<double>(buckets) / static_cast<double>(count);
  const auto bucket_of = [&](double time) {
    const double at = time * scale;
    return static_cast<size_t>(at < static_cast<double>(buckets) ? static_cast<int64_t>(at) : buckets);
  };
  offsets->assign(static_cast<size_t>(buckets) + 2, 0);
  uint32_t* offset = offsets->data();
  for (int64_t i = 0; i < size; ++i) ++offset[bucket_of(times[i]) + 1];
  size_t last = 0;  // the bucket in which the last wanted arrival lies
  while (offset[last] + offset[last + 1] < static_cast<uint64_t>(count)) {
    offset[last + 1] += offset[last];
    ++last;
  }
  const size_t kept = offset[last] + offset[last + 1];
  if (arrivals->size() < kept) arrivals->resize(kept);
  Arrival* out = arrivals->data();
  for (int64_t i = 0; i < size; ++i) {
    const size_t bucket = bucket_of(times[i]);
    if (bucket <= last) out[offset[bucket]++] = {times[i], i};
  }
  // offset[b] is now the end of bucket b
  size_t begin = 0;
  for (size_t bucket = 0; bucket < last; ++bucket) {
    sort_few(out + begin, out + offset[bucket]);
    begin = offset[bucket];
  }
  if (kept - begin > 24) std::nth_element(out + begin, out + count - 1, out + kept);
  sort_few(out + begin, out + (kept - begin > 24 ? static_cast<size_t>(count) : kept));
}

// Sorts distinct numbers by the bits below `bits`, those above being equal; numbers that agree in their upper halves
// must come in order. Buckets from the top: what a level touches at a time stays in the cache.
inline void sort_by_upper_half(uint64_t* values, uint64_t* scratch, int64_t size, int bits = 64) {
  if (size <= 24) {
    sort_few(values, values + size);
    return;
  }
  int width = 1;
  while (width < 11 && (int64_t{4} << width) < size) ++width;
  width = std::min(width, bits - 32);
  if (width <= 0) return;
  const int shift = bits - width;
  const uint64_t mask = (uint64_t{1} << width) - 1;
  uint32_t offset[(1 << 11) + 1];
  std::fill(offset, offset + mask + 2, 0u);
  for (int64_t i = 0; i < size; ++i) ++offset[((values[i] >> shift) & mask) + 1];
  for (uint64_t b = 0; b < mask; ++b) offset[b + 1] += offset[b];
  for (int64_t i = 0; i < size; ++i) scratch[offset[(values[i] >> shift) & mask]++] = values[i];
  std::copy(scratch, scratch + size, values);
  int64_t begin = 0;
  for (uint64_t b = 0; b <= mask; ++b) {
    sort_by_upper_half(values + begin, scratch, offset[b] - begin, shift);
    begin = offset[b];
  }
}

}  // namespace hotloop
