#include "isa.h"

#include <atomic>
#include <cstdlib>

namespace hotloop {
namespace {

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

}  // namespace hotloop
