#include "sampling_kernels.h"

#include <cmath>

#include "lanes64.h"
#include "load.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

constexpr int64_t kRun = 256;  // elements that are staged at once: a multiple of kPhiloxValues and of kSumBlock

}  // namespace

void random_run(const RandomRunParams& p) {
  int64_t i = 0;
  for (; i + kPhiloxValues <= p.count; i += kPhiloxValues) {
    random_lanes(p.key, p.first + static_cast<uint64_t>(i), p.out + i);
  }
  if (i < p.count) {
    uint64_t rest[kPhiloxValues];
    random_lanes(p.key, p.first + static_cast<uint64_t>(i), rest);
    std::memcpy(p.out + i, rest, static_cast<size_t>(p.count - i) * sizeof(uint64_t));
  }
}

void race_times(const RaceTimesParams& p) {
  alignas(64) double scratch[kRun] = {};
  alignas(64) double staged[kRun];
  alignas(64) uint64_t bits[kRun];
  for (int64_t start = 0; start < p.count; start += kRun) {
    const int64_t count = p.count - start < kRun ? p.count - start : kRun;
    const double* priorities = load_along_rows(p.priorities, p.first + start, 0, count, scratch);
    for (int64_t i = 0; i < count; ++i) staged[i] = priorities[i] + kPriorityFloor;
    const int64_t padded = (count + kPhiloxValues - 1) / kPhiloxValues * kPhiloxValues;
    for (int64_t i = count; i < padded; ++i) staged[i] = 1.0;
    for (int64_t i = 0; i < padded; i += kPhiloxValues) {
      random_lanes(p.key, static_cast<uint64_t>(p.first + start + i), bits + i);
    }
    for (int64_t i = 0; i < padded; i += kLanes64) {
      // the uniform of uniform_open_closed(), times 2^53
      const F64 uniform = to_double((load_lanes<U64>(bits + i) >> 11) + 1);
      store_lanes(staged + i, -log_lanes(uniform, -53.0) / load_lanes<F64>(staged + i));
    }
    std::memcpy(p.out + start, staged, static_cast<size_t>(count) * sizeof(double));
  }
}

void block_sums(const BlockSumsParams& p) {
  alignas(64) double scratch[kRun];
  int64_t capped = 0;
  for (int64_t start = 0; start < p.count; start += kRun) {
    const int64_t count = p.count - start < kRun ? p.count - start : kRun;
    const double* priorities = load_along_rows(p.priorities, p.first + start, 0, count, scratch);
    double* sums = p.sums + start / kSumBlock;
    for (int64_t block = 0; block < count; block += kSumBlock) {
      const int64_t end = count - block < kSumBlock ? count : block + kSumBlock;
      double sum = 0;
      for (int64_t i = block; i < end; ++i) {
        const double w = priorities[i] + p.floor;
        const bool out = w * p.scale >= 1.0;
        capped += out;
        sum += out ? 0.0 : w;
      }
      sums[block / kSumBlock] = sum;
    }
  }
  *p.capped = capped;
}

void power_weights(const PowerWeightsParams& p) {
  if (!(p.beta <= 1e6)) {  // infinity, among others: the limits are pow's business
    for (int64_t i = 0; i < p.count; ++i) p.weights[i] = static_cast<float>(std::pow(p.x[i], -p.beta));
    return;
  }
  const F64 smallest = splat_f64(2.2250738585072014e-308);  // the logarithm wants a normal number
  for (int64_t i = 0; i < p.count; i += kLanes64) {
    const F64 x = at_least(load_lanes<F64>(p.x + i), smallest);
    const F64 y = log_lanes(x, 0.0) * -p.beta;
    // e^-120 and e^120 are 0 and infinity as floats
    const F64 e = exp_lanes(at_most(at_least(y, splat_f64(-120.0)), splat_f64(120.0)));
    for (int j = 0; j < kLanes64; ++j) p.weights[i + j] = static_cast<float>(e[j]);
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
