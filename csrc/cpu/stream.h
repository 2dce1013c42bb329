// Copies that go past the cache: for what is not read again before it would have been evicted. An ordinary store
// first reads the line that it overwrites, so a streamed copy moves two thirds of the bytes.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace hotloop {

// Below this a row's incomplete lines at both ends, which are not streamed, outweigh what the others save.
constexpr int64_t kStreamRowBytes = 256;
// A tensor of this size or more is not expected to be found in the cache by whoever reads it next.
constexpr int64_t kStreamTensorBytes = int64_t{1} << 24;

inline void stream_bytes(char* to, const char* from, int64_t count) {
#if defined(__SSE2__)
  constexpr int64_t kLine = 64;
  const int64_t misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) % kLine);
  const int64_t head = misaligned == 0 ? 0 : kLine - misaligned;
  if (count >= head + kLine) {
    std::memcpy(to, from, static_cast<size_t>(head));
    to += head;
    from += head;
    count -= head;
    for (; count >= kLine; count -= kLine, to += kLine, from += kLine) {
      const __m128i* in = reinterpret_cast<const __m128i*>(from);
      __m128i* out = reinterpret_cast<__m128i*>(to);
      const __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1);
      const __m128i c = _mm_loadu_si128(in + 2), d = _mm_loadu_si128(in + 3);
      _mm_stream_si128(out, a);
      _mm_stream_si128(out + 1, b);
      _mm_stream_si128(out + 2, c);
      _mm_stream_si128(out + 3, d);
    }
  }
#endif
  std::memcpy(to, from, static_cast<size_t>(count));
}

// Brings what will be overwritten into the cache. Rows of a rollout's buffer lie on pages of their own, and a store
// that misses holds up those behind it.
inline void will_write(const char* to, int64_t count) {
#if defined(__GNUC__)
  for (int64_t i = 0; i < count; i += 64) __builtin_prefetch(to + i, 1);
#endif
}

inline void will_read(const char* from, int64_t count) {
#if defined(__GNUC__)
  for (int64_t i = 0; i < count; i += 64) __builtin_prefetch(from + i);
#endif
}

// Streamed stores are visible to other threads only after this.
inline void stream_end() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace hotloop
