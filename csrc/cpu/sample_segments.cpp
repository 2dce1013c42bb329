#include "sample_segments.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "load.h"
#include "parallel.h"
#include "sampling_kernels.h"
#include "sampling_sort.h"

namespace hotloop {
namespace {

// Reused from draw to draw: fresh pages would cost more than most draws. What is larger than this is given back.
constexpr size_t kKeptBytes = size_t{1} << 26;

struct Workspace {
  std::vector<double> times;
  std::vector<uint32_t> offsets;
  std::vector<Arrival> arrivals;
  std::vector<double> sums;
  std::vector<uint64_t> bits;
  std::vector<uint64_t> scratch;
  std::vector<double> x;
  std::vector<float> weights;

  void trim() {
    const size_t bytes =
        arrivals.capacity() * sizeof(Arrival) +
        8 * (times.capacity() + sums.capacity() + bits.capacity() + scratch.capacity() + x.capacity());
    if (bytes > kKeptBytes) *this = Workspace();
  }
};

Workspace& workspace() {
  static thread_local Workspace space;
  return space;
}

template <class T>
T* sized(std::vector<T>& memory, int64_t count) {
  if (memory.size() < static_cast<size_t>(count)) memory.resize(static_cast<size_t>(count));
  return memory.data();
}

void write_index(const SampleSegmentsParams& p, int64_t j, int64_t index) {
  reinterpret_cast<int64_t*>(const_cast<char*>(p.indices.data))[j * p.indices.row_stride] = index;
}

int64_t read_index(const SampleSegmentsParams& p, int64_t j) {
  return reinterpret_cast<const int64_t*>(p.indices.data)[j * p.indices.row_stride];
}

void write_ones(const SampleSegmentsParams& p) {
  float* weights = reinterpret_cast<float*>(const_cast<char*>(p.weights.data));
  for (int64_t j = 0; j < p.count; ++j) weights[j * p.weights.row_stride] = 1.0f;
}

// priority + floor of one segment
struct Reader {
  const char* data;
  int64_t stride;
  bool wide;

  explicit Reader(const Matrix& m) : data(m.data), stride(m.row_stride), wide(m.dtype == DType::f64) {}
  double operator[](int64_t i) const {
    const double priority = wide ? reinterpret_cast<const double*>(data)[i * stride]
                                 : static_cast<double>(reinterpret_cast<const float*>(data)[i * stride]);
    return priority + kPriorityFloor;
  }
};

RandomKey key_of(const SampleSegmentsParams& p, RandomStream stream) {
  return RandomKey{p.seed, p.epoch, static_cast<uint32_t>(p.minibatch), stream};
}

template <class Body>  // body(first, count) for runs of [0, size)
void in_runs(int64_t size, const Body& body) {
  // 16 bytes an element is what makes a region pay from about 30 us of work on
  baseline::parallel_blocks((size + kSamplingRun - 1) / kSamplingRun, size * 16, [&](int64_t run) {
    const int64_t first = run * kSamplingRun;
    body(first, size - first < kSamplingRun ? size - first : kSamplingRun);
  });
}

// Fills the workspace's sums with those of w = priority + floor over blocks, leaving out and counting what has w * scale
// >= 1. Returns the sum of all.
double sums_of_blocks(const SampleSegmentsParams& p, double floor = kPriorityFloor, double scale = 0,
                      int64_t* capped = nullptr) {
  double* sums = sized(workspace().sums, (p.segments + kSumBlock - 1) / kSumBlock);
  std::vector<int64_t> left_out(static_cast<size_t>((p.segments + kSamplingRun - 1) / kSamplingRun), 0);
  in_runs(p.segments, [&](int64_t first, int64_t count) {
    block_sums({p.priorities, first, count, floor, scale, sums + first / kSumBlock,
                &left_out[static_cast<size_t>(first / kSamplingRun)]});
  });
  double total = 0;
  for (int64_t b = 0; b < (p.segments + kSumBlock - 1) / kSumBlock; ++b) total += sums[b];
  if (capped != nullptr) {
    *capped = 0;
    for (int64_t each : left_out) *capped += each;
  }
  return total;
}

// weights[j] = x_of(indices[j]) ** -beta
template <class XOf>
void write_weights(const SampleSegmentsParams& p, const XOf& x_of) {
  if (p.beta == 0.0) {
    write_ones(p);
    return;
  }
  const int64_t padded = (p.count + 3) / 4 * 4;
  double* x = sized(workspace().x, padded);
  float* powers = sized(workspace().weights, padded);
  for (int64_t j = 0; j < p.count; ++j) x[j] = x_of(read_index(p, j));
  for (int64_t j = p.count; j < padded; ++j) x[j] = 1.0;
  in_runs(p.count,
          [&](int64_t first, int64_t count) { power_weights({x + first, count, p.beta, powers + first}); });
  float* weights = reinterpret_cast<float*>(const_cast<char*>(p.weights.data));
  for (int64_t j = 0; j < p.count; ++j) weights[j * p.weights.row_stride] = powers[j];
}

void sequential(const SampleSegmentsParams& p) {
  const int64_t first = (p.minibatch * p.count) % p.segments;
  for (int64_t j = 0; j < p.count; ++j) write_index(p, j, (first + j) % p.segments);
  write_ones(p);
}

// A uniformly random permutation by Fisher and Yates; a 64-bit multiply maps bits to a bound (bias below 2^-32).
void permute(const RandomKey& key, std::vector<int32_t>* order) {
  constexpr int64_t kRun = 256;
  uint64_t bits[kRun];
  int32_t* at = order->data();
  const int64_t size = static_cast<int64_t>(order->size());
  for (int64_t i = 0; i < size; ++i) at[i] = static_cast<int32_t>(i);
  for (int64_t first = (size - 1) / kRun * kRun; first >= 0; first -= kRun) {
    const int64_t end = std::min(first + kRun, size);
    random_run({key, static_cast<uint64_t>(first), end - first, bits});
    for (int64_t i = end - 1; i >= std::max<int64_t>(first, 1); --i) {
      const uint64_t bound = static_cast<uint64_t>(i) + 1;
      // floor(bits * bound / 2^64) from 32-bit halves: no 128-bit type needed. bound < 2^32 is checked outside.
      const uint64_t low = (bits[i - first] & 0xffffffffull) * bound;
      const uint64_t j = ((bits[i - first] >> 32) * bound + (low >> 32)) >> 32;
      std::swap(at[i], at[j]);
    }
  }
}

void permutation(const SampleSegmentsParams& p) {
  // The minibatches of an epoch are blocks of one permutation, so the last one made is kept.
  static thread_local std::vector<int32_t> order;
  static thread_local uint64_t seed;
  static thread_local uint32_t epoch;
  if (static_cast<int64_t>(order.size()) != p.segments || seed != p.seed || epoch != p.epoch) {
    order.resize(static_cast<size_t>(p.segments));
    order.shrink_to_fit();
    permute(RandomKey{p.seed, p.epoch, 0, kStreamPermutation}, &order);
    seed = p.seed;
    epoch = p.epoch;
  }
  int64_t at = (p.minibatch * p.count) % p.segments;
  for (int64_t j = 0; j < p.count; ++j) {
    write_index(p, j, order[static_cast<size_t>(at)]);
    at = at + 1 < p.segments ? at + 1 : 0;
  }
  write_ones(p);
}

// Without replacement in the manner of torch.multinomial: an exponential race, the first `count` arrivals win.
void successive(const SampleSegmentsParams& p) {
  Workspace& space = workspace();
  const double sum = sums_of_blocks(p, 0.0);
  double* times = sized(space.times, p.segments);
  const RandomKey key = key_of(p, kStreamRace);
  in_runs(p.segments,
          [&](int64_t first, int64_t count) { race_times({key, p.priorities, first, count, times + first}); });
  first_arrivals(times, p.segments, p.count, sum + kPriorityFloor * static_cast<double>(p.segments),
                 &space.offsets, &space.arrivals);
  for (int64_t j = 0; j < p.count; ++j) write_index(p, j, space.arrivals[static_cast<size_t>(j)].index);
  // The published weights take (w + floor) / (sum + floor) for a probability: the floor counts once below.
  const double factor = static_cast<double>(p.segments) / (sum + kPriorityFloor);
  const Reader w(p.priorities);
  write_weights(p, [&](int64_t i) { return w[i] * factor; });
}

// Inverse CDF. Only the sums of blocks are kept, a guide table leads to the block, and the elements are added up there.
void with_replacement(const SampleSegmentsParams& p) {
  const int64_t blocks = (p.segments + kSumBlock - 1) / kSumBlock;
  const double total = sums_of_blocks(p);
  double* ends = workspace().sums.data();
  for (int64_t b = 1; b < blocks; ++b) ends[b] += ends[b - 1];

  // guide[g] is the first block that ends above g / guides of the total
  const int64_t guides = 2 * blocks;
  uint32_t* guide = sized(workspace().offsets, guides + 1);
  int64_t block = 0;
  for (int64_t g = 0; g < guides; ++g) {
    const double below = total * (static_cast<double>(g) / static_cast<double>(guides));
    while (block < blocks - 1 && ends[block] <= below) ++block;
    guide[g] = static_cast<uint32_t>(block);
  }
  guide[guides] = static_cast<uint32_t>(blocks - 1);

  const RandomKey key = key_of(p, kStreamReplacement);
  const Reader w(p.priorities);
  uint64_t* bits = sized(workspace().bits, p.count);
  in_runs(p.count, [&](int64_t first, int64_t count) {
    random_run({key, static_cast<uint64_t>(first), count, bits + first});
    for (int64_t j = first; j < first + count; ++j) {
      const double uniform = uniform_closed_open(bits[j]);
      const double point = uniform * total;
      const int64_t g = static_cast<int64_t>(uniform * static_cast<double>(guides));
      int64_t b = guide[g];
      if (guide[g + 1] - guide[g] > 4) {  // many small blocks beside a large one
        b = std::upper_bound(ends + b, ends + guide[g + 1], point) - ends;
      }
      while (b < blocks - 1 && ends[b] <= point) ++b;
      while (b > 0 && ends[b - 1] > point) --b;  // rounding may lead one block too far
      const double rest = b > 0 ? point - ends[b - 1] : point;
      const int64_t start = b * kSumBlock;
      const int64_t last = std::min(start + kSumBlock, p.segments) - 1;
      double sum = 0;
      int64_t i = start;
      for (int64_t each = start; each < last; ++each) {
        sum += w[each];
        i += sum <= rest;
      }
      write_index(p, j, i);
    }
  });
  const double factor = static_cast<double>(p.segments) / total;
  write_weights(p, [&](int64_t i) { return w[i] * factor; });
}

// Inclusion probabilities min(1, scale * w) that add up to `count`: those that reach 1 are taken out and the others
// scaled again until none does. Returns the scale, and the sum of w and the number of those that are below 1.
double inclusion_scale(const SampleSegmentsParams& p, double* sum, int64_t* open) {
  if (p.count == p.segments) {
    *sum = 0;
    *open = 0;
    return std::numeric_limits<double>::infinity();
  }
  int64_t capped = 0;
  double scale = 0;
  double rest = sums_of_blocks(p);
  for (;;) {
    // it can only grow; that rounding cannot shrink it is what ends the loop
    scale = std::max(scale, static_cast<double>(p.count - capped) / rest);
    const int64_t before = capped;
    rest = sums_of_blocks(p, kPriorityFloor, scale, &capped);
    if (capped == before || capped >= p.count) {
      *sum = rest;
      *open = p.segments - capped;
      return scale;
    }
  }
}

// Equidistant points, one uniform offset, over the segments in random order, each as long as its inclusion probability
// (Madow 1949, with the order drawn). One that reaches 1 is always in, and takes no room in the row.
void systematic(const SampleSegmentsParams& p) {
  Workspace& space = workspace();
  double sum;
  int64_t open;
  const double scale = inclusion_scale(p, &sum, &open);
  const int64_t points = p.count - (p.segments - open);

  const RandomKey key = key_of(p, kStreamOrder);
  uint64_t* order = sized(space.bits, p.segments);
  in_runs(p.segments, [&](int64_t first, int64_t count) {
    uint64_t bits[kSamplingRun / 2];
    random_run({key, static_cast<uint64_t>(first / 2), (count + 1) / 2, bits});
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t word = (bits[i / 2] >> (32 * (i & 1))) & 0xffffffffull;
      order[first + i] = word << 32 | static_cast<uint64_t>(first + i);
    }
  });
  sort_by_upper_half(order, sized(space.scratch, p.segments), p.segments);

  uint64_t offset_bits;
  random_run({key_of(p, kStreamOffset), 0, 1, &offset_bits});
  const double offset = uniform_closed_open(offset_bits);
  const double step = points > 0 ? sum / static_cast<double>(points) : 0.0;
  const Reader w(p.priorities);
  double end = 0;  // of the segment at hand, in the row of those below 1
  double point = offset * step;
  int64_t taken = 0, drawn = 0, left = open;
  for (int64_t n = 0; n < p.segments; ++n) {
    const int64_t i = static_cast<int64_t>(order[n] & 0xffffffffull);
    const double wide = w[i];
    if (wide * scale >= 1.0) {
      if (taken < p.count) write_index(p, taken++, i);  // rounding of a sum of 10^9 could cap one too many
      continue;
    }
    end += wide;
    // the second half: rounding of the sums may leave a point behind the row's end
    if (drawn < points && (end > point || left <= points - drawn)) {
      write_index(p, taken++, i);
      ++drawn;
      point = (offset + static_cast<double>(drawn)) * step;
    }
    --left;
  }
  const double factor = static_cast<double>(p.segments) / static_cast<double>(p.count);
  write_weights(p, [&](int64_t i) { return factor * std::min(1.0, w[i] * scale); });
}

}  // namespace

void sample_segments(const SampleSegmentsParams& p) {
  if (p.count == 0) return;
  switch (p.law) {
    case SamplingLaw::sequential: return sequential(p);
    case SamplingLaw::permutation: return permutation(p);
    case SamplingLaw::successive: successive(p); break;
    case SamplingLaw::with_replacement: with_replacement(p); break;
    case SamplingLaw::systematic: systematic(p); break;
  }
  workspace().trim();
}

}  // namespace hotloop
