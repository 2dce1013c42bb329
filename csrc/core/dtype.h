// Element types of the tensors that cross the boundary, and the half-precision formats as plain bits.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define HL_HD __host__ __device__ __forceinline__
#else
#define HL_HD static inline  // static: see cpu/isa_namespace.h
#endif

namespace hotloop {

enum class DType : uint8_t { b8, u8, i8, i16, i32, i64, f16, bf16, f32, f64 };

HL_HD int64_t itemsize(DType dtype) {
  switch (dtype) {
    case DType::b8:
    case DType::u8:
    case DType::i8: return 1;
    case DType::i16:
    case DType::f16:
    case DType::bf16: return 2;
    case DType::i32:
    case DType::f32: return 4;
    case DType::i64:
    case DType::f64: return 8;
  }
  return 0;
}

static inline const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::b8: return "bool";
    case DType::u8: return "uint8";
    case DType::i8: return "int8";
    case DType::i16: return "int16";
    case DType::i32: return "int32";
    case DType::i64: return "int64";
    case DType::f16: return "float16";
    case DType::bf16: return "bfloat16";
    case DType::f32: return "float32";
    case DType::f64: return "float64";
  }
  return "?";
}

HL_HD bool is_floating(DType dtype) { return dtype >= DType::f16; }
// Flags (dones, terminated, truncated, valid) come as bool, uint8 or any floating dtype.
HL_HD bool is_flag(DType dtype) { return dtype <= DType::u8 || is_floating(dtype); }

}  // namespace hotloop
