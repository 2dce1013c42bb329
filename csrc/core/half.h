// bfloat16 and float16 <-> float32 as integer arithmetic, so that every compiler vectorises them and every
// instruction set gives the same bits. Included inside an instruction-set namespace: see cpu/isa.h.
#ifndef HL_ISA_NAMESPACE
#error "include cpu/isa_namespace.h first"
#endif
#include <cstdint>
#include <cstring>

#include "dtype.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {

struct Bool8 {  // any non-zero byte is true; written as 0 or 1
  uint8_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

HL_HD float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

HL_HD uint32_t bits_from_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

HL_HD float to_float(BFloat16 x) { return float_from_bits(static_cast<uint32_t>(x.bits) << 16); }

HL_HD float to_float(Float16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  // 2^112 moves the exponent from float16's bias (15) to float32's (127), subnormals included.
  const float scaled = float_from_bits(magnitude) * float_from_bits(0x77800000u);
  const uint32_t finite = bits_from_float(scaled);
  const uint32_t special = magnitude | 0x7f800000u;  // inf and NaN keep their payload
  return float_from_bits(sign | (magnitude >= 0x0f800000u ? special : finite));
}

HL_HD BFloat16 to_bfloat16(float value) {
  const uint32_t bits = bits_from_float(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return BFloat16{static_cast<uint16_t>(nan ? 0x7fc0u : rounded)};
}

HL_HD Float16 to_float16(float value) {
  const uint32_t bits = bits_from_float(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal numbers: rebias the exponent and round to nearest even in the integer domain.
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14: adding 0.5 puts the rounding where float16's last subnormal bit is.
  const uint32_t subnormal = bits_from_float(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x477ff000u ? 0x7c00u : result;  // rounds beyond 65504
  result = magnitude > 0x7f800000u ? 0x7e00u : result;
  return Float16{static_cast<uint16_t>(sign | result)};
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
