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
bool has_byte_products();      // AVX-512 VNNI, of the processor and with AVX-512 active

}  // namespace hotloop

// Declares `void op(const Params&)` for each compiled instruction set and a front that picks one; HL_DECLARE_KERNEL_AVX2
// is for ops whose AVX-512 variant would gain a few per cent and is not compiled (see setup.py).
#define HL_DECLARE_VARIANT(isa, op, Params) \
  namespace hotloop {                       \
  namespace isa {                           \
  void op(const Params&);                   \
  }                                         \
  }
#if defined(HL_HAVE_X86_KERNELS)
#define HL_DECLARE_FRONT(op, Params, widest)           \
  HL_DECLARE_VARIANT(baseline, op, Params)             \
  HL_DECLARE_VARIANT(avx2, op, Params)                 \
  namespace hotloop {                                  \
  static inline void op(const Params& params) {        \
    switch (active_isa()) {                            \
      case Isa::avx512: return widest::op(params);     \
      case Isa::avx2: return avx2::op(params);         \
      case Isa::baseline: return baseline::op(params); \
    }                                                  \
  }                                                    \
  }
#define HL_DECLARE_KERNEL(op, Params)    \
  HL_DECLARE_VARIANT(avx512, op, Params) \
  HL_DECLARE_FRONT(op, Params, avx512)
#define HL_DECLARE_KERNEL_AVX2(op, Params) HL_DECLARE_FRONT(op, Params, avx2)
#else
#define HL_DECLARE_KERNEL(op, Params)                                   \
  HL_DECLARE_VARIANT(baseline, op, Params)                              \
  namespace hotloop {                                                   \
  static inline void op(const Params& params) { baseline::op(params); } \
  }
#define HL_DECLARE_KERNEL_AVX2 HL_DECLARE_KERNEL
#endif
