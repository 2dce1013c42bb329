// Short vectors of numbers: the compiler's own where it has them and can shuffle them (clang, GCC from 12 on), elsewhere
// arrays with the same operators, so that what is built on them compiles everywhere and gives the same bits.
// HL_PORTABLE_VECTORS asks for the arrays, to test them with any compiler.
#pragma once
#include <cstdint>
#include <cstring>

#include "isa_namespace.h"

#if (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)) && !defined(HL_PORTABLE_VECTORS)
#define HL_COMPILER_VECTORS
#endif

namespace hotloop {
namespace HL_ISA_NAMESPACE {

template <class V, class T>
static inline V load_lanes(const T* at) {
  V v;
  std::memcpy(&v, at, sizeof v);
  return v;
}

template <class V, class T>
static inline void store_lanes(T* at, V v) {
  std::memcpy(at, &v, sizeof v);
}

#if defined(HL_COMPILER_VECTORS)

template <class T, int kLanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
};
template <class T, int kLanes>
using Vector = typename VectorOf<T, kLanes>::type;

// The same bits as a vector of another type.
template <class To, class From>
static inline To lanes_as(From v) {
  return reinterpret_cast<To>(v);
}

// x, but `bound` where x is less (more); NaN stays.
template <class V>
static inline V at_least(V x, V bound) {
  return x < bound ? bound : x;
}
template <class V>
static inline V at_most(V x, V bound) {
  return x > bound ? bound : x;
}

// a0 b0 a1 b1 ... of the lower or upper halves.
template <class V>
static inline V zip_low(V a, V b) {
  if constexpr (sizeof(V) / sizeof(a[0]) == 2) {
    return __builtin_shufflevector(a, b, 0, 2);
  } else {
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
  }
}
template <class V>
static inline V zip_high(V a, V b) {
  if constexpr (sizeof(V) / sizeof(a[0]) == 2) {
    return __builtin_shufflevector(a, b, 1, 3);
  } else {
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
  }
}

// The lower, or upper, halves of two vectors of 4.
template <class V>
static inline V join_low(V a, V b) {
  return __builtin_shufflevector(a, b, 0, 1, 4, 5);
}
template <class V>
static inline V join_high(V a, V b) {
  return __builtin_shufflevector(a, b, 2, 3, 6, 7);
}

// Through memory: a function that returns 32 bytes of vector has another convention with AVX than without.
static inline void widen(Vector<float, 4> v, Vector<double, 4>* to) {
  *to = __builtin_convertvector(v, Vector<double, 4>);
}

#else

template <class T, int kLanes>
struct Vector {
  T at[kLanes];

  T& operator[](int64_t i) { return at[i]; }
  const T& operator[](int64_t i) const { return at[i]; }

#define HL_LANES_OPERATOR(op)                                      \
  friend inline Vector operator op(Vector a, Vector b) {           \
    for (int i = 0; i < kLanes; ++i) a.at[i] = a.at[i] op b.at[i]; \
    return a;                                                      \
  }                                                                \
  friend inline Vector operator op(Vector a, T b) {                \
    for (int i = 0; i < kLanes; ++i) a.at[i] = a.at[i] op b;       \
    return a;                                                      \
  }                                                                \
  friend inline Vector operator op(T a, Vector b) {                \
    for (int i = 0; i < kLanes; ++i) b.at[i] = a op b.at[i];       \
    return b;                                                      \
  }
  HL_LANES_OPERATOR(+)
  HL_LANES_OPERATOR(-)
  HL_LANES_OPERATOR(*)
  HL_LANES_OPERATOR(/)
  HL_LANES_OPERATOR(&)
  HL_LANES_OPERATOR(|)
  HL_LANES_OPERATOR(^)
#undef HL_LANES_OPERATOR

  friend inline Vector operator>>(Vector a, int bits) {
    for (int i = 0; i < kLanes; ++i) a.at[i] = a.at[i] >> bits;
    return a;
  }
  friend inline Vector operator<<(Vector a, int bits) {
    for (int i = 0; i < kLanes; ++i) a.at[i] = a.at[i] << bits;
    return a;
  }
  Vector operator-() const {
    Vector negative;
    for (int i = 0; i < kLanes; ++i) negative.at[i] = -at[i];
    return negative;
  }
  Vector& operator+=(Vector b) { return *this = *this + b; }
};

template <class To, class From>
static inline To lanes_as(From v) {
  static_assert(sizeof(To) == sizeof(From), "as many bits");
  return load_lanes<To>(&v);
}

template <class T, int kLanes>
static inline Vector<T, kLanes> at_least(Vector<T, kLanes> x, Vector<T, kLanes> bound) {
  for (int i = 0; i < kLanes; ++i) x[i] = x[i] < bound[i] ? bound[i] : x[i];
  return x;
}
template <class T, int kLanes>
static inline Vector<T, kLanes> at_most(Vector<T, kLanes> x, Vector<T, kLanes> bound) {
  for (int i = 0; i < kLanes; ++i) x[i] = x[i] > bound[i] ? bound[i] : x[i];
  return x;
}

template <class T, int kLanes>
static inline Vector<T, kLanes> zip_low(Vector<T, kLanes> a, Vector<T, kLanes> b) {
  Vector<T, kLanes> zipped;
  for (int i = 0; i < kLanes; ++i) zipped[i] = i % 2 == 0 ? a[i / 2] : b[i / 2];
  return zipped;
}
template <class T, int kLanes>
static inline Vector<T, kLanes> zip_high(Vector<T, kLanes> a, Vector<T, kLanes> b) {
  Vector<T, kLanes> zipped;
  for (int i = 0; i < kLanes; ++i) zipped[i] = (i % 2 == 0 ? a : b)[(kLanes + i) / 2];
  return zipped;
}

template <class T>
static inline Vector<T, 4> join_low(Vector<T, 4> a, Vector<T, 4> b) {
  return {{a[0], a[1], b[0], b[1]}};
}
template <class T>
static inline Vector<T, 4> join_high(Vector<T, 4> a, Vector<T, 4> b) {
  return {{a[2], a[3], b[2], b[3]}};
}

static inline void widen(Vector<float, 4> v, Vector<double, 4>* to) { *to = {{v[0], v[1], v[2], v[3]}}; }

#endif

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
