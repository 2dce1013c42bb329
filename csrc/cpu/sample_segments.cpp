#include "sample_segments.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "../core/philox.h"
#include "load.h"

namespace hotloop {
namespace {

constexpr double kFloor = 1e-6;  // keeps a segment of priority 0 reachable (PufferLib's and Metta's constant)

void write(const SampleSegmentsParams& p, int64_t j, int64_t index, float weight) {
  reinterpret_cast<int64_t*>(const_cast<char*>(p.indices.data))[j * p.indices.row_stride] = index;
  reinterpret_cast<float*>(const_cast<char*>(p.weights.data))[j * p.weights.row_stride] = weight;
}

void sequential(const SampleSegmentsParams& p) {
  const int64_t first = (p.minibatch * p.count) % p.segments;
  for (int64_t j = 0; j < p.count; ++j) write(p, j, (first + j) % p.segments, 1.0f);
}

// A uniformly random permutation by Fisher and Yates; a 64-bit multiply maps bits to a bound (bias below 2^-32).
void permutation(const SampleSegmentsParams& p) {
  static thread_local std::vector<int64_t> order;  // reused: fresh pages would cost more than the shuffle
  order.resize(static_cast<size_t>(p.segments));
  for (int64_t i = 0; i < p.segments; ++i) order[static_cast<size_t>(i)] = i;
  const RandomKey key{p.seed, p.epoch, 0, kStreamPermutation};
  for (int64_t i = p.segments - 1; i > 0; --i) {
    const uint64_t bits = random_bits64(key, static_cast<uint64_t>(i));
    const uint64_t bound = static_cast<uint64_t>(i) + 1;
    // floor(bits * bound / 2^64) from 32-bit halves: no 128-bit type needed. bound < 2^32 is checked outside.
    const uint64_t low = (bits & 0xffffffffull) * bound;
    const uint64_t j = ((bits >> 32) * bound + (low >> 32)) >> 32;
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(j)]);
  }
  const int64_t first = (p.minibatch * p.count) % p.segments;
  for (int64_t j = 0; j < p.count; ++j) {
    write(p, j, order[static_cast<size_t>((first + j) % p.segments)], 1.0f);
  }
}

// Without replacement in the manner of torch.multinomial: an exponential race, the first `count` arrivals win.
void successive(const SampleSegmentsParams& p) {
  struct Arrival {
    double time;
    int64_t index;
    bool operator<(const Arrival& other) const {
      return time < other.time || (time == other.time && index < other.index);
    }
  };
  static thread_local std::vector<Arrival> race;
  race.resize(static_cast<size_t>(p.segments));
  const auto priority = [&](int64_t i) {
    double scratch = 0;
    return *baseline::load_along_rows(p.priorities, i, 0, 1, &scratch);
  };
  double total = kFloor;
  for (int64_t i = 0; i < p.segments; ++i) total += priority(i);
  const RandomKey key{p.seed, p.epoch, static_cast<uint32_t>(p.minibatch), kStreamRace};
  for (int64_t i = 0; i < p.segments; ++i) {
    const double probability = (priority(i) + kFloor) / total;
    const double uniform = uniform_open_closed(random_bits64(key, static_cast<uint64_t>(i)));
    race[static_cast<size_t>(i)] = {-std::log(uniform) / probability, i};
  }
  if (p.count < p.segments) std::nth_element(race.begin(), race.begin() + p.count, race.end());
  std::sort(race.begin(), race.begin() + p.count);
  for (int64_t j = 0; j < p.count; ++j) {
    const int64_t index = race[static_cast<size_t>(j)].index;
    const double probability = (priority(index) + kFloor) / total;
    write(p, j, index, static_cast<float>(std::pow(static_cast<double>(p.segments) * probability, -p.beta)));
  }
}

}  // namespace

void sample_segments(const SampleSegmentsParams& p) {
  if (p.count == 0) return;
  switch (p.law) {
    case SamplingLaw::sequential: return sequential(p);
    case SamplingLaw::permutation: return permutation(p);
    case SamplingLaw::successive: return successive(p);
  }
}

}  // namespace hotloop
