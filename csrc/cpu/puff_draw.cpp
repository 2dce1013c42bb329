#include "puff_draw.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "../core/recurrence.h"
#include "isa_namespace.h"

namespace hotloop {
namespace {

// Of torch's sum: numbers side by side, chains of them, and levels of a cascade.
constexpr int64_t kLanes = 8, kChains = 4, kLevels = 4;
constexpr int64_t kTogether = 8;  // rows whose recurrences run side by side: one alone waits for each of its steps
constexpr int64_t kLineFloats = 16;
constexpr int64_t kFew = 512;  // so many numbers are sorted sooner than counted
constexpr int kShift = 20;  // counted by exponent and three bits of the mantissa
constexpr float kTiny = 1e-6f;

int64_t ceil_log2(int64_t x) {
  int64_t bits = 0;
  while ((int64_t{1} << bits) < x) ++bits;
  return bits;
}

template <bool kMagnitudes>
float seen(float x) {
  return kMagnitudes ? std::fabs(x) : x;
}

// Sums of the columns of x, [count, kWidth].
template <int64_t kWidth, bool kMagnitudes>
void sum_columns(const float* x, int64_t count, float* sums) {
  const int64_t power = std::max<int64_t>(4, ceil_log2(count) / kLevels);
  const int64_t step = int64_t{1} << power, mask = step - 1;
  float level[kLevels][kWidth] = {};
  const auto add = [&](int64_t i) {
    for (int64_t w = 0; w < kWidth; ++w) level[0][w] += seen<kMagnitudes>(x[i * kWidth + w]);
  };
  int64_t i = 0;
  while (i + step <= count) {
    for (const int64_t end = i + step; i < end; ++i) add(i);
    for (int64_t l = 1; l < kLevels; ++l) {
      for (int64_t w = 0; w < kWidth; ++w) {
        level[l][w] += level[l - 1][w];
        level[l - 1][w] = 0;
      }
      if ((i & (mask << (l * power))) != 0) break;
    }
  }
  for (; i < count; ++i) add(i);
  for (int64_t l = 1; l < kLevels; ++l) {
    for (int64_t w = 0; w < kWidth; ++w) level[0][w] += level[l][w];
  }
  std::memcpy(sums, level[0], sizeof level[0]);
}

template <int64_t kWidth, bool kMagnitudes>
float sum_lanes(const float* x, int64_t count) {
  const int64_t whole = count / kWidth, grouped = whole / kChains;
  float chain[kChains * kWidth];
  sum_columns<kChains * kWidth, kMagnitudes>(x, grouped, chain);
  for (int64_t i = grouped * kChains; i < whole; ++i) {
    for (int64_t w = 0; w < kWidth; ++w) chain[w] += seen<kMagnitudes>(x[i * kWidth + w]);
  }
  for (int64_t c = 1; c < kChains; ++c) {
    for (int64_t w = 0; w < kWidth; ++w) chain[w] += chain[c * kWidth + w];
  }
  float total = 0;
  for (int64_t i = whole * kWidth; i < count; ++i) total += seen<kMagnitudes>(x[i]);
  for (int64_t w = 0; w < kWidth; ++w) total += chain[w];
  return total;
}

template <bool kMagnitudes>
float sum(const float* x, int64_t count) {
  return count < kLanes ? sum_lanes<1, kMagnitudes>(x, count) : sum_lanes<kLanes, kMagnitudes>(x, count);
}

void ask_for(const float* row, int64_t count) {
  for (int64_t i = 0; i < count; i += kLineFloats) HL_PREFETCH_READ(row + i);
}

void ask_for_row(const PuffRowsParams& p, int64_t row) {
  ask_for(p.values + row * p.values_step, p.horizon);
  ask_for(p.rewards + row * p.rewards_step, p.horizon);
  ask_for(p.dones + row * p.dones_step, p.horizon);
  ask_for(p.importance + row * p.importance_step, p.horizon);
  for (int64_t i = 0; i < p.horizon; i += kLineFloats) {
    HL_PREFETCH_WRITE(p.advantages + row * p.advantages_step + i);
    HL_PREFETCH_WRITE(p.returns + row * p.returns_step + i);
  }
}

}  // namespace

void puff_rows(const PuffRowsParams& p) {
  const Discount<float> discount = make_discount(p.gamma, p.gae_lambda);
  const int64_t inner = p.horizon - 1;  // nothing is known of what arrives after the last step
  std::vector<float> scratch(static_cast<size_t>(2 * kTogether * p.horizon));
  float *const a = scratch.data(), *const b = a + kTogether * p.horizon;
  for (int64_t i = 0; i < std::min(kTogether, p.count); ++i) ask_for_row(p, p.rows[i]);
  for (int64_t first = 0; first < p.count; first += kTogether) {
    const int64_t rows = std::min(kTogether, p.count - first);
    for (int64_t i = first + rows; i < std::min(first + rows + kTogether, p.count); ++i) ask_for_row(p, p.rows[i]);
    for (int64_t j = 0; j < rows; ++j) {
      const int64_t row = p.rows[first + j];
      const float *value = p.values + row * p.values_step, *reward = p.rewards + row * p.rewards_step;
      const float *done = p.dones + row * p.dones_step, *importance = p.importance + row * p.importance_step;
      float *to_a = a + j * p.horizon, *to_b = b + j * p.horizon;
      HL_INDEPENDENT
      for (int64_t t = 0; t < inner; ++t) {
        const Affine<float> step = puff_step(discount, p.rho_clip, p.c_clip, value[t], value[t + 1], reward[t + 1],
                                             done[t + 1], importance[t]);
        to_a[t] = step.a;
        to_b[t] = step.b;
      }
    }
    float y[kTogether] = {};
    for (int64_t t = inner - 1; t >= 0; --t) {
      for (int64_t j = 0; j < rows; ++j) {
        float& at = b[j * p.horizon + t];
        at = y[j] = follow<false>(Affine<float>{a[j * p.horizon + t], at}, y[j]);
      }
    }
    for (int64_t j = 0; j < rows; ++j) {
      const int64_t row = p.rows[first + j];
      float* found = b + j * p.horizon;
      found[inner] = 0;
      const float* value = p.values + row * p.values_step;
      float *advantages = p.advantages + row * p.advantages_step, *returns = p.returns + row * p.returns_step;
      std::memcpy(advantages, found, static_cast<size_t>(p.horizon) * sizeof(float));
      for (int64_t t = 0; t < p.horizon; ++t) returns[t] = found[t] + value[t];
      p.sums[row] = sum<true>(found, p.horizon);
    }
  }
}

float ordered_sum(const float* x, int64_t count) { return sum<false>(x, count); }
float ordered_sum_of_magnitudes(const float* x, int64_t count) { return sum<true>(x, count); }

void puff_chances(const float* powers, float total, int64_t segments, float* chances) {
  const float all = total + kTiny;
  HL_INDEPENDENT
  for (int64_t i = 0; i < segments; ++i) chances[i] = (powers[i] + kTiny) / all;
}

bool puff_race(const float* chances, float* race, int64_t segments, int64_t count, int64_t* rows,
               std::vector<uint64_t>* scratch) {
  HL_INDEPENDENT
  for (int64_t i = 0; i < segments; ++i) race[i] = chances[i] / race[i];
  // Numbers from 0 to infinity are in the order of their bits; what is not one of them is not decided here.
  constexpr uint32_t kInfinity = 0x7f800000;
  std::vector<uint64_t>& best = *scratch;
  best.clear();
  uint32_t least = 0;
  const auto bits = [&](int64_t i) {
    uint32_t found;
    std::memcpy(&found, race + i, sizeof found);
    return found;
  };
  if (segments > kFew) {
    int32_t with[(kInfinity >> kShift) + 1] = {};
    for (int64_t i = 0; i < segments; ++i) {
      const uint32_t each = bits(i);
      if (each > kInfinity) return false;
      ++with[each >> kShift];
    }
    int64_t above = 0;
    uint32_t bucket = (kInfinity >> kShift) + 1;
    while (bucket > 0 && above <= count) above += with[--bucket];
    least = bucket << kShift;
  }
  for (int64_t i = 0; i < segments; ++i) {
    const uint32_t each = bits(i);
    if (each > kInfinity) return false;
    if (each >= least) best.push_back(static_cast<uint64_t>(each) << 32 | static_cast<uint64_t>(i));
  }
  const auto end = best.begin() + std::min<int64_t>(count + 1, static_cast<int64_t>(best.size()));
  std::partial_sort(best.begin(), end, best.end(), std::greater<uint64_t>());
  for (auto each = best.begin() + 1; each < end; ++each) {
    if (each[0] >> 32 == each[-1] >> 32) return false;
  }
  for (int64_t i = 0; i < count; ++i) rows[i] = static_cast<int64_t>(best[static_cast<size_t>(i)] & 0xffffffffu);
  return true;
}

}  // namespace hotloop
