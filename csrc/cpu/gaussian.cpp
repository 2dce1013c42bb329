#include "gaussian.h"

#include "gaussian_columns.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

// Two standard normal numbers for each row (Box and Muller 1958, "A note on the generation of random normal
// deviates"): row n takes numbers 2m and 2m + 1, m = first_row + n, of the stream of its pair of components.
void normal_pairs(const GaussianParams& p, int64_t row, int64_t pair, Column* even, Column* odd) {
  const RandomKey key{p.seed, static_cast<uint32_t>(p.step >> 32), static_cast<uint32_t>(p.step),
                      kStreamGaussian + (static_cast<uint32_t>(pair) << kStreamBits)};
  alignas(64) uint64_t bits[2 * kGaussianBlock];
  for (int64_t i = 0; i < 2 * kGaussianBlock; i += kPhiloxValues) {
    random_lanes(key, 2 * p.first_row + static_cast<uint64_t>(2 * row + i), bits + i);
  }
  alignas(64) double uniforms[2 * kGaussianBlock];
  uniform_run(bits, 2 * kGaussianBlock, uniforms);
  Column uniform, log_uniform;
  for (int64_t r = 0; r < kGaussianBlock; ++r) uniform.at[r] = uniforms[2 * r] + 0x1p-53;  // (0, 1], exactly
  log_run(uniform.at, kGaussianBlock, log_uniform.at);
  for (int64_t r = 0; r < kGaussianBlock; ++r) {
    const double radius = normal_radius(log_uniform.at[r]);
    double cosine, sine;
    cos_sin_turn(uniforms[2 * r + 1], &cosine, &sine);
    even->at[r] = radius * cosine;
    odd->at[r] = radius * sine;
  }
}

// Actions are rounded to their dtype before their density is taken: evaluating what was stored gives the same bits.
void draw_column(const GaussianParams& p, const Column& noise, const double* mean, const Column& log_std,
                 int64_t rows, Column& out) {
  for (int64_t r = 0; r < rows; ++r) out.at[r] = mean[r] + exponential(log_std.at[r]) * noise.at[r];
  if (p.squash) {
    for (int64_t r = 0; r < rows; ++r) out.at[r] = within(squashed(out.at[r]), p.limit);
  }
  if (p.actions.dtype == DType::f32) {
    for (int64_t r = 0; r < rows; ++r) out.at[r] = static_cast<double>(static_cast<float>(out.at[r]));
  }
}

void run_block(const GaussianParams& p, int64_t row, int64_t rows) {
  Column noise[2], mean_scratch, log_std, inverse, actions_scratch, before, log_slope, log_prob, entropy;
  for (int64_t r = 0; r < rows; ++r) log_prob.at[r] = entropy.at[r] = 0;
  for (int64_t j = 0; j < p.width; ++j) {
    const double* mean = load_column(p.mean, row, j, rows, mean_scratch);
    load_scales(p.log_std, row, j, rows, log_std, inverse);
    const double* u;
    if (p.draw) {
      if (j % 2 == 0) normal_pairs(p, row, j / 2, &noise[0], &noise[1]);
      draw_column(p, noise[j % 2], mean, log_std, rows, actions_scratch);
      store_along_rows(p.actions, row, j, rows, actions_scratch.at);
      u = actions_scratch.at;
    } else {
      u = load_column(p.actions, row, j, rows, actions_scratch);
    }
    if (p.squash) {
      unsquash(u, rows, p.limit, before, log_slope);
      for (int64_t r = 0; r < rows; ++r) log_prob.at[r] -= log_slope.at[r];
      u = before.at;
    }
    for (int64_t r = 0; r < rows; ++r) {
      const double z = (u[r] - mean[r]) * inverse.at[r];
      log_prob.at[r] += normal_log_density(z, log_std.at[r]);
      entropy.at[r] += normal_entropy(log_std.at[r]);
    }
  }
  store_along_rows(p.log_prob, row, 0, rows, log_prob.at);
  store_along_rows(p.entropy, row, 0, rows, entropy.at);
}

}  // namespace

void gaussian(const GaussianParams& p) {
  const int64_t bytes = p.rows * p.width * 64;  // what the arithmetic costs, in bytes copied
  parallel_blocks((p.rows + kGaussianBlock - 1) / kGaussianBlock, bytes, [&](int64_t block) {
    const int64_t row = block * kGaussianBlock;
    run_block(p, row, p.rows - row < kGaussianBlock ? p.rows - row : kGaussianBlock);
  });
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
