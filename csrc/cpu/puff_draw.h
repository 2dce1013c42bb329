// What PufferLib's trainer draws a minibatch by: advantages of rows, sums of their magnitudes, and the race that
// decides who is drawn. All of it rounds as the operations of torch that the trainer calls.
#pragma once
#include <cstdint>
#include <vector>

namespace hotloop {

// Rows of float32 matrices [S, T], one number behind the other; strides in elements from row to row.
struct PuffRowsParams {
  int64_t horizon = 0;
  const float *values = nullptr, *rewards = nullptr, *dones = nullptr, *importance = nullptr;
  float *advantages = nullptr, *returns = nullptr;  // written; returns are advantages + values
  int64_t values_step = 0, rewards_step = 0, dones_step = 0, importance_step = 0;
  int64_t advantages_step = 0, returns_step = 0;
  float gamma = 0, gae_lambda = 0, rho_clip = 0, c_clip = 0;
  const int64_t* rows = nullptr;  // [count]
  int64_t count = 0;
  float* sums = nullptr;  // [S], written at `rows`: sum_t |A|
};

// puff_advantage (see core/recurrence.h) of some rows, with their returns and sums.
void puff_rows(const PuffRowsParams& params);

// torch's sum over a contiguous innermost dimension: lanes of eight, four chains, a cascade of levels.
float ordered_sum(const float* x, int64_t count);
float ordered_sum_of_magnitudes(const float* x, int64_t count);

// chances = (powers + 1e-6) / (total + 1e-6), [S].
void puff_chances(const float* powers, float total, int64_t segments, float* chances);

// race = chances / race, [S], and the rows [count] of the largest, largest first. False, with the rows unwritten,
// where equal numbers or NaN leave open which rows these are: torch's own choice then depends on its algorithm.
bool puff_race(const float* chances, float* race, int64_t segments, int64_t count, int64_t* rows,
               std::vector<uint64_t>* scratch);

}  // namespace hotloop
