// Which instruction set the kernels use: picked once from what the processor has and what was compiled.
#pragma once
#include <string>
#include <vector>

namespace hotloop {

enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2 };

const char* isa_name(Isa isa);
std::vector<Isa> isas_supported();  // compiled in and supported by this processor, slowest first
Isa active_isa();
bool set_active_isa(Isa isa);  // false, and nothing changes, where it is not supported

}  // namespace hotloop

// Declares `void op(const Params&)` for each compiled instruction set and a front that picks one.
#if defined(HL_HAVE_X86_KERNELS)
#define HL_DECLARE_KERNEL(op, Params)                  \
  namespace hotloop {                                  \
  namespace baseline {                                 \
  void op(const Params&);                              \
  }                                                    \
  namespace avx2 {                                     \
  void op(const Params&);                              \
  }                                                    \
  namespace avx512 {                                   \
  void op(const Params&);                              \
  }                                                    \
  static inline void op(const Params& params) {        \
    switch (active_isa()) {                            \
      case Isa::avx512: return avx512::op(params);     \
      case Isa::avx2: return avx2::op(params);         \
      case Isa::baseline: return baseline::op(params); \
    }                                                  \
  }                                                    \
  }
#else
#define HL_DECLARE_KERNEL(op, Params)                                   \
  namespace hotloop {                                                   \
  namespace baseline {                                                  \
  void op(const Params&);                                               \
  }                                                                     \
  static inline void op(const Params& params) { baseline::op(params); } \
  }
#endif
