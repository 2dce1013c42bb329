// The sampling laws. What a draw depends on is added up in the order of the CPU, by one thread where it has to be, so
// that a draw does not depend on the device; it costs some nanoseconds a segment and no wait for the host.
#pragma once
#include "element.cuh"
#include "sampling_sort.cuh"
#include "../core/philox.h"
#include "../core/sampling_params.h"

namespace hotloop {
namespace device {

struct Draw {
  int64_t segments, count, minibatch;
  uint64_t seed;
  uint32_t epoch;
  double beta;
  Array priorities, weights;
  char* indices;
  int64_t index_bytes;

  explicit Draw(const SampleSegmentsParams& p)
      : segments(p.segments),
        count(p.count),
        minibatch(p.minibatch),
        seed(p.seed),
        epoch(p.epoch),
        beta(p.beta),
        priorities(p.priorities),
        weights(p.weights),
        indices(const_cast<char*>(p.indices.data)),
        index_bytes(p.indices.row_stride * 8) {}

  HL_DEVICE double priority(int64_t i) const { return load_at<double>(priorities, i, 0); }
  HL_DEVICE double weight(int64_t i) const { return priority(i) + kPriorityFloor; }
  HL_DEVICE RandomKey key(RandomStream stream) const {
    return RandomKey{seed, epoch, static_cast<uint32_t>(minibatch), stream};
  }
  HL_DEVICE void put(int64_t j, int64_t index) const {
    *reinterpret_cast<int64_t*>(indices + j * index_bytes) = index;
  }
  // x ** -beta
  HL_DEVICE void put_weight(int64_t j, double x) const {
    float power = 1.0f;
    if (beta > 1e6) {
      power = static_cast<float>(::pow(x, -beta));
    } else if (beta != 0.0) {
      x = x < 2.2250738585072014e-308 ? 2.2250738585072014e-308 : x;
      double y = ::log(x) * -beta;
      y = y < -120.0 ? -120.0 : y;  // e^-120 and e^120 are 0 and infinity as floats
      y = y > 120.0 ? 120.0 : y;
      power = static_cast<float>(::exp(y));
    }
    store_at(weights, j, 0, power);
  }
};

// What one kernel finds out for the next: a few numbers at the start of the scratch memory.
struct Totals {
  double sum;  // of the weights that sums were asked of
  double scale;  // systematic: inclusion probabilities are min(1, scale * weight)
  int64_t open;  // systematic: segments whose probability is below 1
};

constexpr int kDrawThreads = 256;

static __global__ void __launch_bounds__(kDrawThreads) sequential_kernel(const Draw d) {
  const int64_t j = global_thread();
  if (j >= d.count) return;
  d.put(j, (d.minibatch * d.count % d.segments + j) % d.segments);
  d.put_weight(j, 1.0);
}

constexpr int kShuffledInShared = 8192;  // segments: 32 KiB

// floor(random * bound / 2^64) from 32-bit halves
HL_DEVICE uint64_t scaled_bits(uint64_t random, uint64_t bound) {
  const uint64_t low = (random & 0xffffffffull) * bound;
  return ((random >> 32) * bound + (low >> 32)) >> 32;
}

// Fisher and Yates from the top down: a chain of exchanges that one thread makes, with partners that all of them draw.
template <class Order, class Partners>
HL_DEVICE void shuffle_in_block(const Draw& d, Order& order, Partners& partners) {
  const int64_t thread = threadIdx.x;
  for (int64_t i = thread; i < d.segments; i += kDrawThreads) order[i] = static_cast<int32_t>(i);
  const RandomKey key{d.seed, d.epoch, 0, kStreamPermutation};
  for (int64_t first = (d.segments - 1) / kDrawThreads * kDrawThreads; first >= 0; first -= kDrawThreads) {
    const int64_t end = first + kDrawThreads < d.segments ? first + kDrawThreads : d.segments;
    const auto mine = static_cast<uint64_t>(first + thread);
    if (first + thread < end)
      partners[thread] = static_cast<int32_t>(scaled_bits(random_bits64(key, mine), mine + 1));
    __syncthreads();
    for (int64_t i = end - 1; thread == 0 && i >= first && i >= 1; --i) {
      const int32_t j = partners[i - first];
      const int32_t moved = order[i];
      order[i] = order[j];
      order[j] = moved;
    }
    __syncthreads();
  }
  const int64_t start = d.minibatch * d.count % d.segments;
  for (int64_t j = thread; j < d.count; j += kDrawThreads) {
    d.put(j, order[(start + j) % d.segments]);
    d.put_weight(j, 1.0);
  }
}

// One block. `order` is room for the segments, for more than fit into shared memory.
static __global__ void __launch_bounds__(kDrawThreads, 1) permutation_kernel(const Draw d, int32_t* order) {
  HL_SHARED(int32_t, partners, kDrawThreads);
  HL_SHARED(int32_t, near, kShuffledInShared);
  if (d.segments <= kShuffledInShared) {
    shuffle_in_block(d, near, partners);
  } else {
    shuffle_in_block(d, order, partners);
  }
}

// Sum, in order, of priority + floor over one run of kSumBlock segments, without those whose product with `scale` reaches
// 1, which are counted.
HL_DEVICE double sum_of_run(const Draw& d, int64_t run, double floor, double scale, int64_t* capped) {
  const int64_t first = run * kSumBlock;
  const int64_t end = first + kSumBlock < d.segments ? first + kSumBlock : d.segments;
  double sum = 0;
  for (int64_t i = first; i < end; ++i) {
    const double w = d.priority(i) + floor;
    const bool out = w * scale >= 1.0;
    *capped += out ? 1 : 0;
    sum += out ? 0.0 : w;
  }
  return sum;
}

static __global__ void __launch_bounds__(kDrawThreads)
    sum_runs_kernel(const Draw d, const double floor, double* sums) {
  const int64_t run = global_thread();
  int64_t capped = 0;
  if (run * kSumBlock < d.segments) sums[run] = sum_of_run(d, run, floor, 0.0, &capped);
}

constexpr int kStaged = 1024;

// One block: adds `sums` up in order. Each becomes the sum of all up to it where `cumulative`. All threads get the total.
template <class Staged>
HL_DEVICE double add_in_order(double* sums, int64_t count, bool cumulative, Staged& staged) {
  const int64_t thread = threadIdx.x;
  double total = 0;
  for (int64_t first = 0; first < count; first += kStaged) {
    const int64_t size = count - first < kStaged ? count - first : kStaged;
    for (int64_t i = thread; i < size; i += blockDim.x) staged[i] = sums[first + i];
    __syncthreads();
    for (int64_t i = 0; thread == 0 && i < size; ++i) {
      total += static_cast<double>(staged[i]);
      staged[i] = total;
    }
    __syncthreads();
    for (int64_t i = thread; cumulative && i < size; i += blockDim.x) sums[first + i] = staged[i];
    total = staged[size - 1];
    __syncthreads();
  }
  return total;
}

static __global__ void __launch_bounds__(kDrawThreads, 1)
    add_sums_kernel(double* sums, const int64_t count, const bool cumulative, Totals* totals) {
  HL_SHARED(double, staged, kStaged);
  const double total = add_in_order(sums, count, cumulative, staged);
  if (threadIdx.x == 0) totals->sum = total;
}

// Inversion of the distribution function: a search in the sums of runs, and in the run one after the other.
static __global__ void __launch_bounds__(kDrawThreads)
    replacement_kernel(const Draw d, const double* ends, const Totals* totals) {
  const int64_t j = global_thread();
  if (j >= d.count) return;
  const int64_t runs = (d.segments + kSumBlock - 1) / kSumBlock;
  const double total = totals->sum;
  const double point =
      uniform_closed_open(random_bits64(d.key(kStreamReplacement), static_cast<uint64_t>(j))) * total;
  int64_t low = 0, high = runs - 1;  // the first run that ends above the point
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (ends[middle] <= point) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const double rest = low > 0 ? point - ends[low - 1] : point;
  const int64_t start = low * kSumBlock;
  const int64_t last = (start + kSumBlock < d.segments ? start + kSumBlock : d.segments) - 1;
  double sum = 0;
  int64_t i = start;
  for (int64_t each = start; each < last; ++each) {
    sum += d.weight(each);
    i += sum <= rest ? 1 : 0;
  }
  d.put(j, i);
  d.put_weight(j, d.weight(i) * (static_cast<double>(d.segments) / total));
}

// Arrival times of the exponential race as keys: positive doubles sort as their bits do. What is not a segment is last.
static __global__ void __launch_bounds__(kDrawThreads) race_kernel(const Draw d, Key* keys, const int64_t size) {
  const int64_t i = global_thread();
  if (i >= size) return;
  Key key{~uint64_t{0}, static_cast<uint64_t>(i)};
  if (i < d.segments) {
    const double uniform = uniform_open_closed(random_bits64(d.key(kStreamRace), static_cast<uint64_t>(i)));
    const double time = (uniform == 1.0 ? 0.0 : -::log(uniform)) / d.weight(i);
    std::memcpy(&key.key, &time, 8);
  }
  keys[i] = key;
}

static __global__ void __launch_bounds__(kDrawThreads)
    first_arrivals_kernel(const Draw d, const Key* keys, const Totals* totals) {
  const int64_t j = global_thread();
  if (j >= d.count) return;
  const int64_t i = static_cast<int64_t>(keys[j].index);
  d.put(j, i);
  // The published weights take (w + floor) / (sum + floor) for a probability: the floor counts once below.
  d.put_weight(j, d.weight(i) * (static_cast<double>(d.segments) / (totals->sum + kPriorityFloor)));
}

// A random order of the segments: 32 random bits each.
static __global__ void __launch_bounds__(kDrawThreads) order_kernel(const Draw d, Key* keys, const int64_t size) {
  const int64_t i = global_thread();
  if (i >= size) return;
  Key key{~uint64_t{0}, static_cast<uint64_t>(i)};
  if (i < d.segments) {
    const uint64_t bits = random_bits64(d.key(kStreamOrder), static_cast<uint64_t>(i / 2));
    key.key = (bits >> (32 * (i & 1))) & 0xffffffffull;
  }
  keys[i] = key;
}

// One block: inclusion probabilities min(1, scale * w) that add up to `count`. Those that reach 1 are taken out and the
// others scaled again until none does.
static __global__ void __launch_bounds__(kDrawThreads, 1)
    inclusion_kernel(const Draw d, double* sums, Totals* totals) {
  HL_SHARED(double, staged, kStaged);
  HL_SHARED(int64_t, counts, kDrawThreads);
  const int64_t runs = (d.segments + kSumBlock - 1) / kSumBlock;
  const int64_t thread = threadIdx.x;
  double scale = 0, rest = 0;
  int64_t capped = 0;
  for (bool first = true;; first = false) {
    const int64_t before = capped;
    // it can only grow; that rounding cannot shrink it is what ends the loop
    const double wanted = first ? 0.0 : static_cast<double>(d.count - capped) / rest;
    scale = scale < wanted ? wanted : scale;
    int64_t mine = 0;
    for (int64_t run = thread; run < runs; run += kDrawThreads) {
      sums[run] = sum_of_run(d, run, kPriorityFloor, scale, &mine);
    }
    counts[thread] = mine;
    __syncthreads();
    capped = 0;
    for (int i = 0; i < kDrawThreads; ++i) capped += counts[i];
    rest = add_in_order(sums, runs, false, staged);
    if (!first && (capped == before || capped >= d.count)) break;
  }
  if (thread != 0) return;
  totals->sum = rest;
  totals->scale = scale;
  totals->open = d.segments - capped;
}

constexpr int kWalked = 512;  // segments that are staged at once

// One block: equidistant points over the segments in random order, each as long as its inclusion probability (Madow
// 1949). One thread walks the row; all of them fetch it, and write what was taken.
static __global__ void __launch_bounds__(kDrawThreads, 1)
    systematic_kernel(const Draw d, const Key* keys, const Totals* totals) {
  HL_SHARED(double, wide, kWalked);
  HL_SHARED(int64_t, index, kWalked);
  HL_SHARED(int64_t, place, kWalked);  // in the minibatch; -1: not taken
  const int64_t thread = threadIdx.x;
  const bool all = d.count == d.segments;
  const double scale = all ? HUGE_VAL : totals->scale;
  const int64_t open = all ? 0 : totals->open;
  const int64_t points = d.count - (d.segments - open);
  const double offset = uniform_closed_open(random_bits64(d.key(kStreamOffset), 0));
  const double step = points > 0 ? totals->sum / static_cast<double>(points) : 0.0;
  const double factor = static_cast<double>(d.segments) / static_cast<double>(d.count);
  double end = 0, point = offset * step;  // end: of the segment at hand, in the row of those below 1
  int64_t taken = 0, drawn = 0, left = open;
  for (int64_t first = 0; first < d.segments; first += kWalked) {
    const int64_t size = d.segments - first < kWalked ? d.segments - first : kWalked;
    for (int64_t n = thread; n < size; n += kDrawThreads) {
      const int64_t i = static_cast<int64_t>(keys[first + n].index);
      index[n] = i;
      wide[n] = d.weight(i);
    }
    __syncthreads();
    for (int64_t n = 0; thread == 0 && n < size; ++n) {
      const double w = wide[n];
      bool take = w * scale >= 1.0;
      if (take) {
        take = taken < d.count;  // rounding of a sum of 10^9 could cap one too many
      } else {
        end += w;
        // the second half: rounding of the sums may leave a point behind the row's end
        take = drawn < points && (end > point || left <= points - drawn);
        if (take) {
          ++drawn;
          point = (offset + static_cast<double>(drawn)) * step;
        }
        --left;
      }
      place[n] = take ? taken++ : -1;
    }
    __syncthreads();
    for (int64_t n = thread; n < size; n += kDrawThreads) {
      const int64_t j = place[n];
      if (j < 0) continue;
      const double included = wide[n] * scale;
      d.put(j, index[n]);
      d.put_weight(j, factor * (included < 1.0 ? included : 1.0));
    }
    __syncthreads();
  }
}

}  // namespace device
}  // namespace hotloop
