#include "scale_pixels.h"

#include "isa_namespace.h"
#include "parallel.h"

namespace hotloop {
namespace HL_ISA_NAMESPACE {
namespace {

// Divided and not multiplied by the reciprocal, which would round otherwise than the x / 255 of everybody's networks.
void scale(const uint8_t* in, int64_t in_stride, int64_t count, float* out, int64_t out_stride) {
  if (in_stride == 1 && out_stride == 1) {
    HL_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(in[i]) / 255.0f;
    return;
  }
  for (int64_t i = 0; i < count; ++i) out[i * out_stride] = static_cast<float>(in[i * in_stride]) / 255.0f;
}

}  // namespace

void scale_pixels(const ScalePixelsParams& p) {
  parallel_blocks(p.count, p.bytes, [&](int64_t i) {
    const PixelRun& run = p.runs[i];
    scale(reinterpret_cast<const uint8_t*>(run.data[0]), run.stride[0], run.count,
          reinterpret_cast<float*>(run.data[1]), run.stride[1]);
  });
}

}  // namespace HL_ISA_NAMESPACE
}  // namespace hotloop
