#include "../cpu/sample_segments.h"

#include <limits>

#include "backend.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "scalar_arg.h"
#include "tensor_arg.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "sample_segments";
constexpr int64_t kMaxSegments = std::numeric_limits<int32_t>::max();  // permutation multiplies in 32-bit halves

SamplingLaw read_law(PyObject* object) {
  const std::string law = python_str(object);
  if (law == "sequential") return SamplingLaw::sequential;
  if (law == "permutation") return SamplingLaw::permutation;
  if (law == "successive") return SamplingLaw::successive;
  if (law == "with_replacement") return SamplingLaw::with_replacement;
  if (law == "systematic") return SamplingLaw::systematic;
  value_error(kOp, "law", "'sequential', 'permutation', 'successive', 'with_replacement' or 'systematic'",
              "'" + law + "'");
}

bool draws_by_priority(SamplingLaw law) {
  return law != SamplingLaw::sequential && law != SamplingLaw::permutation;
}

template <class T>
bool all_usable(const View& w) {
  const T* at = reinterpret_cast<const T*>(w.data);
  const T most = std::numeric_limits<T>::max();
  bool usable = true;
  if (w.stride[0] == 1) {
    for (int64_t i = 0; i < w.shape[0]; ++i) usable &= (at[i] >= T(0)) & (at[i] <= most);
  } else {
    for (int64_t i = 0; i < w.shape[0]; ++i)
      usable &= (at[i * w.stride[0]] >= T(0)) & (at[i * w.stride[0]] <= most);
  }
  return usable;
}

void expect_priorities(const View& w) {
  if (w.dtype == DType::f32 && all_usable<float>(w)) return;
  double sum = 0;
  for (int64_t i = 0; i < w.shape[0]; ++i) {
    const char* at = w.data + i * w.stride[0] * itemsize(w.dtype);
    const double x = w.dtype == DType::f64 ? *reinterpret_cast<const double*>(at)
                                           : static_cast<double>(*reinterpret_cast<const float*>(at));
    if (!(x >= 0.0 && x <= std::numeric_limits<double>::max())) {
      value_error(kOp, ("priorities[" + std::to_string(i) + "]").c_str(), "finite and >= 0", std::to_string(x));
    }
    sum += x;
  }
  if (sum > std::numeric_limits<double>::max()) value_error(kOp, "priorities", "of a finite sum", "inf");
}

// args: priorities, segments, count, law, seed, epoch, minibatch, beta, indices, weights
void sample_segments_checked(PyObject* const* args) {
  PyObject* const priorities = args[0];
  PyObject* const segments = args[1];
  PyObject* const count = args[2];
  PyObject* const law = args[3];
  PyObject* const seed = args[4];
  PyObject* const epoch = args[5];
  PyObject* const minibatch = args[6];
  PyObject* const beta = args[7];
  PyObject* const indices = args[8];
  PyObject* const weights = args[9];
  const View w = read_optional(kOp, "priorities", priorities);
  const View i = read_tensor(kOp, "out[0]", indices);
  const View g = read_tensor(kOp, "out[1]", weights);
  SampleSegmentsParams p;
  p.law = read_law(law);
  p.segments = read_int(kOp, "num_segments", segments, 1, kMaxSegments);
  p.count = read_int(kOp, "count", count, 0, kMaxSegments);
  p.seed = static_cast<uint64_t>(
      read_int(kOp, "seed", seed, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()));
  p.epoch = static_cast<uint32_t>(read_int(kOp, "epoch", epoch, 0, std::numeric_limits<uint32_t>::max()));
  p.minibatch = read_int(kOp, "minibatch", minibatch, 0, std::numeric_limits<uint32_t>::max());
  p.beta = read_non_negative(kOp, "beta", beta);
  if (draws_by_priority(p.law)) {
    if (absent(w)) value_error(kOp, "priorities", "a tensor [S] for law '" + python_str(law) + "'", "None");
    if (p.law != SamplingLaw::with_replacement && p.count > p.segments) {
      value_error(kOp, "count", "at most num_segments = " + std::to_string(p.segments) + " without replacement",
                  std::to_string(p.count));
    }
  }
  if (!absent(w)) {
    expect_shape(kOp, "priorities", w, {p.segments}, "[S]");
    expect_float(kOp, "priorities", w);
#if !defined(HL_BIND_CUDA) || defined(HL_CUDA_HOST)  // looking at each would wait for the device
    if (draws_by_priority(p.law)) expect_priorities(w);
#endif
    p.priorities = as_column(w);
  }
  expect_shape(kOp, "out[0]", i, {p.count}, "[k]");
  expect_dtype(kOp, "out[0]", i, DType::i64);
  expect_shape(kOp, "out[1]", g, {p.count}, "[k]");
  expect_dtype(kOp, "out[1]", g, DType::f32);
  expect_no_self_overlap(kOp, "out[0]", i);
  expect_no_self_overlap(kOp, "out[1]", g);
  expect_disjoint(kOp, "out[0]", i, "priorities", w);
  expect_disjoint(kOp, "out[1]", g, "priorities", w);
  expect_disjoint(kOp, "out[1]", g, "out[0]", i);
  p.indices = as_column(i);
  p.weights = as_column(g);
  mark_written(indices);
  mark_written(weights);
  HL_RUN_WITH(sample_segments_scratch_bytes(p), sample_segments, kOp,
              p.law == SamplingLaw::sequential ? p.count * 12 : p.segments * 24, p);
}

}  // namespace

void bind_sample_segments(PyObject* module) { add_op<10, sample_segments_checked>(module, kOp); }

}  // namespace hotloop
