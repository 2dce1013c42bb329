#include "convert_floats.h"

#include <type_traits>

#include "load.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

template <class To>
struct Round;
template <>
struct Round<float> {
  template <class From>
  static float from(From x) {
    return convert<float>(x);
  }
};
template <>
struct Round<double> {
  template <class From>
  static double from(From x) {
    return convert<double>(x);
  }
};
template <>
struct Round<BFloat16> {
  template <class From>
  static BFloat16 from(From x) {
    return to_bfloat16(convert<float>(x));
  }
  static BFloat16 from(BFloat16 x) { return x; }
};
template <>
struct Round<Float16> {
  template <class From>
  static Float16 from(From x) {
    return to_float16(convert<float>(x));
  }
  static Float16 from(Float16 x) { return x; }
};

template <class Out, class In, class Each>
void each_element(Out* __restrict out, const In* __restrict in, const ConvertFloatsParams& p, const Each& each) {
  if (p.out_stride == 1 && p.in_stride == 1) {
    for (int64_t i = 0; i < p.count; ++i) out[i] = each(in[i]);
  } else {
    for (int64_t i = 0; i < p.count; ++i) out[i * p.out_stride] = each(in[i * p.in_stride]);
  }
}

// The same bits as to_float16: nearest, ties to even, one NaN for each sign.
void to_halves(const float* in, int64_t count, Float16* out) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m256 x = _mm256_loadu_ps(in + i);
    const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f));
    const __m256 quiet = _mm256_or_ps(sign, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)));
    const __m128i half = _mm256_cvtps_ph(_mm256_blendv_ps(x, quiet, nan), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), half);
  }
#endif
  for (; i < count; ++i) out[i] = to_float16(in[i]);
}

template <class From>
void run_to_halves(const ConvertFloatsParams& p) {
  constexpr int64_t kRun = 512;
  float wide[kRun];
  const From* in = reinterpret_cast<const From*>(p.in);
  const float scale = static_cast<float>(p.scale);
  for (int64_t begin = 0; begin < p.count; begin += kRun) {
    const int64_t size = p.count - begin < kRun ? p.count - begin : kRun;
    for (int64_t i = 0; i < size; ++i) wide[i] = convert<float>(in[begin + i]);
    if (p.scale != 1.0) {
      for (int64_t i = 0; i < size; ++i) wide[i] *= scale;
    }
    to_halves(wide, size, reinterpret_cast<Float16*>(p.out) + begin);
  }
}

template <class To, class From, class Real>
void run(const ConvertFloatsParams& p) {
  if constexpr (std::is_same_v<To, Float16> && std::is_same_v<Real, float> && !std::is_same_v<From, Float16>) {
    if (p.out_stride == 1 && p.in_stride == 1) return run_to_halves<From>(p);
  }
  To* out = reinterpret_cast<To*>(p.out);
  const From* in = reinterpret_cast<const From*>(p.in);
  if (p.scale == 1.0) return each_element(out, in, p, [](From x) { return Round<To>::from(x); });
  const Real scale = static_cast<Real>(p.scale);
  each_element(out, in, p,
               [scale](From x) { return Round<To>::from(static_cast<Real>(convert<Real>(x) * scale)); });
}

template <class To, class Real>
void run_from(const ConvertFloatsParams& p) {
  switch (p.from) {
    case DType::b8: return run<To, Bool8, Real>(p);
    case DType::u8: return run<To, uint8_t, Real>(p);
    case DType::i8: return run<To, int8_t, Real>(p);
    case DType::i16: return run<To, int16_t, Real>(p);
    case DType::i32: return run<To, int32_t, Real>(p);
    case DType::i64: return run<To, int64_t, Real>(p);
    case DType::f16: return run<To, Float16, Real>(p);
    case DType::bf16: return run<To, BFloat16, Real>(p);
    case DType::f32: return run<To, float, Real>(p);
    case DType::f64: return run<To, double, double>(p);
  }
}

}  // namespace

void convert_floats(const ConvertFloatsParams& p) {
  switch (p.to) {
    case DType::f16: return run_from<Float16, float>(p);
    case DType::bf16: return run_from<BFloat16, float>(p);
    case DType::f32: return run_from<float, float>(p);
    case DType::f64: return run_from<double, double>(p);
    default: return;  // see the header
  }
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
