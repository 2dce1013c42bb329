// Operations that the lanes of a warp do together: each waits until all lanes of its mask have come.
#pragma once
#include <cstdint>
#include <cstring>

namespace simt {

enum class Kind { index, up, down, exclusive_or, ballot, barrier };
constexpr unsigned kFullMask = 0xffffffffu;

// What the calling lane gets: the bits of another lane, or the ballot. Memory is not ordered by it, as on a GPU.
uint64_t warp_operation(Kind kind, const char* site, unsigned mask, uint64_t bits, int argument, int width);

template <class T>
static inline T shuffle(Kind kind, const char* site, unsigned mask, T value, int argument, int width = 32) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = warp_operation(kind, site, mask, bits, argument, width);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline unsigned ballot(const char* site, unsigned mask, bool predicate) {
  return static_cast<unsigned>(warp_operation(Kind::ballot, site, mask, predicate ? 1 : 0, 0, 32));
}

struct WarpBarrier {
  const char* site;
  void operator()(unsigned mask = kFullMask) const { warp_operation(Kind::barrier, site, mask, 0, 0, 32); }
};

}  // namespace simt
