#include "../cpu/clip_grad_norm.h"

#include <cmath>

#include "backend.h"
#include "bind_ops.h"
#include "fastcall.h"
#include "leaves.h"
#include "overlap.h"
#include "scalar_arg.h"
#include "torch_bridge.h"

namespace hotloop {
namespace {

constexpr const char* kOp = "clip_grad_norm_";

// Gradients are made by autograd and by whoever fills `.grad`, so a kind that the kernel does not serve is no mistake
// of the caller: NeedsDispatcher has the face take torch's own function, which serves it or says why not.
std::vector<View> read_gradients(PyObject* list) {
  std::vector<View> gradients;
  try {
    gradients = read_tensors(kOp, "gradients", list);
    for (size_t l = 0; l < gradients.size(); ++l) {
      expect_real(kOp, "a gradient", gradients[l]);
      expect_no_self_overlap(kOp, "a gradient", gradients[l]);
    }
    if (may_overlap({&gradients})) expect_all_disjoint(kOp, "gradients", gradients, "none", {});
#if !defined(HL_BIND_CUDA)
  } catch (const NeedsDevice&) {
    if (has_device_op(kOp)) throw;
    throw NeedsDispatcher{};
#endif
  } catch (const Error&) {
    if (!PyList_Check(list) && !PyTuple_Check(list)) throw;
    throw NeedsDispatcher{};
  }
  return gradients;
}

// args: gradients, max_norm, error_if_nonfinite, out
void clip_grad_norm_checked(PyObject* const* args) {
  PyObject* const list = args[0];
  PyObject* const out = args[3];
  const std::vector<View> gradients = read_gradients(list);
  const double max_norm = read_double(kOp, "max_norm", args[1]);
  const View norm_view = read_tensor(kOp, "out", out);
  expect_shape(kOp, "out", norm_view, {}, "a number");
  expect_float(kOp, "out", norm_view);
  expect_all_disjoint(kOp, "out", {norm_view}, "gradients", gradients);

  std::vector<GradientRun> runs;
  for (const View& gradient : gradients) {
    for_joint_runs<1>({gradient}, [&](const JointRun<1>& at) { runs.push_back(GradientRun{at, gradient.dtype}); });
  }
  std::vector<double> sums(runs.size());
#if defined(HL_BIND_CUDA)
  if (args[2] == Py_True) throw NeedsDispatcher{};  // only who waits for the norm can tell
  ClipGradNormParams p;
  p.runs = runs.data();
  p.count = static_cast<int64_t>(runs.size());
  p.max_norm = max_norm;
  p.norm = norm_view;
  mark_written(out);
  bump_versions(PySequence_Fast_ITEMS(list), gradients.size());  // whether they are written to is not known here
  HL_RUN_WITH(clip_grad_norm_scratch_bytes(p), clip_grad_norm, kOp, 0, p);
#else
  SquareSumsParams squares;
  squares.runs = runs.data();
  squares.count = static_cast<int64_t>(runs.size());
  squares.sums = sums.data();
  squares.bytes = total_bytes(gradients);
  run_kernel(squares.bytes, [&] { square_sums(squares); });
  double total = 0;
  for (double sum : sums) total += sum;
  const double norm = std::sqrt(total);
  if (args[2] == Py_True && !std::isfinite(norm)) {
    throw Error(PyExc_RuntimeError, expectation(kOp, "the norm of all gradients", "finite (error_if_nonfinite)",
                                                std::to_string(norm)));
  }

  mark_written(out);
  if (norm_view.dtype == DType::f64) {
    *reinterpret_cast<double*>(norm_view.data) = norm;
  } else {
    *reinterpret_cast<float*>(norm_view.data) = static_cast<float>(norm);
  }
  ScaleRunsParams scales;
  scales.factor = clip_factor(max_norm, norm);
  if (scales.factor >= 1) return;  // NaN is not, and reaches every gradient as it does in torch
  scales.runs = squares.runs;
  scales.count = squares.count;
  scales.bytes = squares.bytes;
  bump_versions(PySequence_Fast_ITEMS(list), gradients.size());
  run_kernel(scales.bytes, [&] { scale_runs(scales); });
#endif
}

}  // namespace

void bind_clip_grad_norm(PyObject* module) { add_op<4, clip_grad_norm_checked>(module, kOp); }

}  // namespace hotloop
