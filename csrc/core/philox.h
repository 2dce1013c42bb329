// Philox4x32-10, a counter-based generator: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011. A draw depends on (seed, epoch, minibatch, stream, index) alone, never on threads or history.
#pragma once
#include <cstdint>

#include "dtype.h"

namespace hotloop {

// Last counter word of each consumer of random numbers, so that no two ever share a block.
enum RandomStream : uint32_t {
  kStreamPermutation = 1,
  kStreamRace = 2,
  kStreamReplacement = 3,
  kStreamOrder = 4,  // systematic: the random order of the segments
  kStreamOffset = 5,  // systematic: the one uniform
  kStreamCategorical = 6,  // head h of several adds h << kStreamBits
  kStreamGaussian = 7,  // pair p of components adds p << kStreamBits
};
constexpr uint32_t kStreamBits = 8;  // of the counter word: the rest numbers what one consumer draws for a row

struct RandomKey {
  uint64_t seed;
  uint32_t epoch;
  uint32_t minibatch;
  uint32_t stream;
};

struct PhiloxBlock {
  uint32_t word[4];
};

HL_HD PhiloxBlock philox4x32(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c0;
    const uint64_t p1 = 0xCD9E8D57ull * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return PhiloxBlock{{c0, c1, c2, c3}};
}

// 64 random bits number `index`; each block yields two of them.
HL_HD uint64_t random_bits64(const RandomKey& key, uint64_t index) {
  const PhiloxBlock block = philox4x32(static_cast<uint32_t>(index >> 1), key.minibatch, key.epoch, key.stream,
                                       static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32));
  const bool second = (index & 1) != 0;  // selected, not indexed: on a GPU an indexed array lies in memory
  const uint32_t low = second ? block.word[2] : block.word[0];
  const uint32_t high = second ? block.word[3] : block.word[1];
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Uniform in (0, 1] with 53 random bits: never 0, so that its logarithm is finite.
HL_HD double uniform_open_closed(uint64_t bits) { return static_cast<double>((bits >> 11) + 1) * 0x1p-53; }

// Uniform in [0, 1) with 53 random bits.
HL_HD double uniform_closed_open(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

}  // namespace hotloop
