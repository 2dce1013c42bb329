#include "isa.h"

#include <atomic>
#include <cstdlib>

#if defined(HL_HAVE_X86_KERNELS) && defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#endif

namespace hotloop {
namespace {

#if defined(HL_HAVE_X86_KERNELS) && defined(_MSC_VER)

// What __builtin_cpu_supports asks elsewhere: the processor's bits (Intel's manual, CPUID leaves 1 and 7), and in XCR0
// whether the system saves the registers.
bool processor_has(Isa isa) {
  int one[4], seven[4];
  __cpuid(one, 0);
  if (isa == Isa::baseline || one[0] < 7) return isa == Isa::baseline;
  __cpuid(one, 1);
  __cpuidex(seven, 7, 0);
  const auto bit = [](int word, int number) { return ((static_cast<unsigned>(word) >> number) & 1u) != 0; };
  if (!bit(one[2], 27)) return false;  // OSXSAVE: without it there is no XCR0 to read
  const unsigned long long saved = _xgetbv(0);
  const bool avx2 = bit(one[2], 12) && bit(seven[1], 5) && (saved & 0x6u) == 0x6u;  // FMA, AVX2
  if (isa == Isa::avx2) return avx2;
  return avx2 && bit(seven[1], 16) && bit(seven[1], 17) && bit(seven[1], 30) && bit(seven[1], 31) &&
         (saved & 0xe6u) == 0xe6u;  // AVX-512 F, DQ, BW, VL
}

bool processor_has_vnni() {
  int seven[4];
  __cpuidex(seven, 7, 0);
  return processor_has(Isa::avx512) && ((static_cast<unsigned>(seven[2]) >> 11) & 1u) != 0;
}

#else

bool processor_has(Isa isa) {
#if defined(HL_HAVE_X86_KERNELS)
  __builtin_cpu_init();
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#endif
  return isa == Isa::baseline;
}

bool processor_has_vnni() {
#if defined(HL_HAVE_X86_KERNELS)
  return processor_has(Isa::avx512) && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

#endif

// HOTLOOP_ISA narrows the choice (to measure, or to exclude a kernel when hunting a bug); a name that is
// unknown or unsupported is reported by the module's import, which compares it with what was picked.
Isa pick() {
  const std::vector<Isa> supported = isas_supported();
  if (const char* wanted = std::getenv("HOTLOOP_ISA")) {
    for (Isa isa : supported) {
      if (isa_name(isa) == std::string(wanted)) return isa;
    }
  }
  return supported.back();
}

std::atomic<int>& slot() {
  static std::atomic<int> active{static_cast<int>(pick())};
  return active;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::baseline: return "baseline";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
  }
  return "?";
}

std::vector<Isa> isas_supported() {
  std::vector<Isa> found;
  for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (processor_has(isa)) found.push_back(isa);
  }
  return found;
}

Isa active_isa() { return static_cast<Isa>(slot().load(std::memory_order_relaxed)); }

bool set_active_isa(Isa isa) {
  if (!processor_has(isa)) return false;
  slot().store(static_cast<int>(isa), std::memory_order_relaxed);
  return true;
}

bool has_byte_products() {
  static const bool processor = processor_has_vnni();
  return processor && active_isa() == Isa::avx512;
}

}  // namespace hotloop
