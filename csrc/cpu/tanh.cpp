#include "tanh.h"

#include "../core/exponential.h"
#include "load.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

constexpr int64_t kScratch = 512;  // numbers of another dtype or at a stride, staged at once

template <class T>
void apply(const T* in, int64_t count, T* out) {
  HL_INDEPENDENT
  for (int64_t i = 0; i < count; ++i) out[i] = hyperbolic_tangent(in[i]);
}

template <class T>
void run_one(const TanhRun& run, DType dtype) {
  if (dtype == DTypeOf<T>::value && run.stride[0] == 1 && run.stride[1] == 1) {
    return apply(reinterpret_cast<const T*>(run.data[0]), run.count, reinterpret_cast<T*>(run.data[1]));
  }
  alignas(64) T scratch[kScratch];
  for (int64_t start = 0; start < run.count; start += kScratch) {
    const int64_t count = run.count - start < kScratch ? run.count - start : kScratch;
    load_converted(dtype, run.data[0] + start * run.stride[0] * itemsize(dtype), run.stride[0], count, scratch);
    apply(scratch, count, scratch);
    Matrix out;
    out.data = run.data[1];
    out.dtype = dtype;
    store_run(out, start * run.stride[1], run.stride[1], count, scratch);
  }
}

}  // namespace

void tanh(const TanhParams& p) {
  parallel_blocks(p.count, p.bytes, [&](int64_t i) {
    if (p.dtype == DType::f64) {
      run_one<double>(p.runs[i], p.dtype);
    } else {
      run_one<float>(p.runs[i], p.dtype);
    }
  });
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
