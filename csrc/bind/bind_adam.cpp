#include "../cpu/adam.h"

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

constexpr const char* kOp = "adam_";

// What follows params in the arguments, each a list of as many tensors.
constexpr const char* kLists[] = {"params", "grads", "exp_avgs", "exp_avg_sqs"};

double read_beta(const char* arg, PyObject* object) {
  const double beta = read_double(kOp, arg, object);
  if (!(beta >= 0 && beta < 1)) value_error(kOp, arg, "in [0, 1)", std::to_string(beta));
  return beta;
}

double read_finite(const char* arg, PyObject* object) {
  const double value = read_non_negative(kOp, arg, object);
  if (std::isinf(value)) value_error(kOp, arg, "finite", std::to_string(value));
  return value;
}

AdamSettings read_settings(PyObject* const* args) {
  AdamSettings s;
  s.lr = read_finite("lr", args[0]);
  s.beta1 = read_beta("beta1", args[1]);
  s.beta2 = read_beta("beta2", args[2]);
  s.eps = read_finite("eps", args[3]);
  s.weight_decay = read_finite("weight_decay", args[4]);
  s.decoupled = args[5] == Py_True;
  s.maximize = args[6] == Py_True;
  return s;
}

// Names of leaves are built for messages only: a hundred of them would take longer than a small network's step.
bool is_wide(const View& view) { return view.dtype == DType::f32 || view.dtype == DType::f64; }

void expect_like_params(const std::vector<View> (&views)[kAdamViews]) {
  const std::vector<View>& params = views[kParameter];
  for (size_t l = 0; l < params.size(); ++l) {
    if (!is_wide(params[l])) expect_float(kOp, leaf_name(kLists[0], l).c_str(), params[l]);
  }
  for (int i = 1; i < kAdamViews; ++i) {
    expect_same_length(kOp, kLists[i], views[i], kLists[0], params);
    for (size_t l = 0; l < params.size(); ++l) {
      const View& view = views[i][l];
      bool equal = view.ndim == params[l].ndim && view.dtype == params[l].dtype;
      for (int d = 0; equal && d < view.ndim; ++d) equal = view.shape[d] == params[l].shape[d];
      if (!equal) {
        value_error(kOp, leaf_name(kLists[i], l).c_str(),
                    describe(params[l]) + ", like " + leaf_name(kLists[0], l), describe(view));
      }
    }
  }
}

void expect_memory_of_their_own(const std::vector<View> (&views)[kAdamViews], const std::vector<View>& steps) {
  for (int i : {kParameter, kMean, kSquare}) {
    for (size_t l = 0; l < views[i].size(); ++l) {
      if (!is_compact(views[i][l])) expect_no_self_overlap(kOp, leaf_name(kLists[i], l).c_str(), views[i][l]);
    }
  }
  if (!may_overlap({&views[kParameter], &views[kGradient], &views[kMean], &views[kSquare], &steps})) return;
  expect_all_disjoint(kOp, "steps", steps, kLists[kGradient], views[kGradient]);
  for (int i : {kParameter, kMean, kSquare}) {
    expect_all_disjoint(kOp, kLists[i], views[i], kLists[kGradient], views[kGradient]);
    expect_all_disjoint(kOp, kLists[i], views[i], "steps", steps);
    for (int j : {kParameter, kMean, kSquare}) {
      if (j < i) expect_all_disjoint(kOp, kLists[i], views[i], kLists[j], views[j]);
    }
  }
}

#if defined(HL_BIND_CUDA)

// What they hold is not looked at, which would wait for the device.
void expect_steps(const std::vector<View>& steps) {
  for (size_t l = 0; l < steps.size(); ++l) {
    if (steps[l].ndim == 0 && is_wide(steps[l])) continue;
    const std::string name = leaf_name("steps", l);
    expect_shape(kOp, name.c_str(), steps[l], {}, "a number");
    expect_float(kOp, name.c_str(), steps[l]);
  }
}

#else

double number_at(const View& view) {
  return view.dtype == DType::f64 ? *reinterpret_cast<const double*>(view.data)
                                  : static_cast<double>(*reinterpret_cast<const float*>(view.data));
}

// The number of the step that begins, per tensor.
std::vector<double> next_steps(const std::vector<View>& steps) {
  std::vector<double> numbers;
  numbers.reserve(steps.size());
  for (size_t l = 0; l < steps.size(); ++l) {
    const bool is_number = steps[l].ndim == 0 && is_wide(steps[l]);
    const double done = is_number ? number_at(steps[l]) : -1;
    if (!(done >= 0)) {
      const std::string name = leaf_name("steps", l);
      expect_shape(kOp, name.c_str(), steps[l], {}, "a number");
      expect_float(kOp, name.c_str(), steps[l]);
      value_error(kOp, name.c_str(), ">= 0", std::to_string(done));
    }
    numbers.push_back(done + 1);
  }
  return numbers;
}

void count_steps(const std::vector<View>& steps) {
  for (const View& step : steps) {
    if (step.dtype == DType::f64) {
      *reinterpret_cast<double*>(step.data) += 1;
    } else {
      *reinterpret_cast<float*>(step.data) += 1;
    }
  }
}

#endif

void mark_all_written(std::initializer_list<PyObject*> lists) {
  std::vector<PyObject*> tensors;
  for (PyObject* list : lists) {
    PyObject** items = PySequence_Fast_ITEMS(list);
    tensors.insert(tensors.end(), items, items + PySequence_Fast_GET_SIZE(list));
  }
  bump_versions(tensors.data(), tensors.size());
}

// args: params, grads, exp_avgs, exp_avg_sqs, steps, lr, beta1, beta2, eps, weight_decay, decoupled, maximize
void adam_checked(PyObject* const* args) {
  std::vector<View> views[kAdamViews];
  for (int i = 0; i < kAdamViews; ++i) views[i] = read_tensors(kOp, kLists[i], args[i]);
  const std::vector<View> steps = read_tensors(kOp, "steps", args[4]);
  const AdamSettings settings = read_settings(args + 5);
  expect_like_params(views);
  expect_same_length(kOp, "steps", steps, kLists[0], views[kParameter]);
#if defined(HL_BIND_CUDA)
  expect_steps(steps);
#else
  const std::vector<double> numbers = next_steps(steps);
#endif
  expect_memory_of_their_own(views, steps);

  const size_t tensors = steps.size();
  std::vector<AdamRun> runs;
  std::vector<DType> dtypes(tensors);
  for (size_t l = 0; l < tensors; ++l) {
    dtypes[l] = views[kParameter][l].dtype;
    for_joint_runs<kAdamViews>(
        {views[0][l], views[1][l], views[2][l], views[3][l]},
        [&](const JointRun<kAdamViews>& at) { runs.push_back(AdamRun{at, static_cast<int64_t>(l)}); });
  }
#if defined(HL_BIND_CUDA)
  AdamDeviceParams p;
  p.runs = runs.data();
  p.count = static_cast<int64_t>(runs.size());
  p.dtypes = dtypes.data();
  p.steps = steps.data();
  p.tensors = static_cast<int64_t>(tensors);
  p.settings = settings;
  mark_all_written({args[kParameter], args[kMean], args[kSquare], args[4]});
  HL_RUN_WITH(adam_scratch_bytes(p), adam, kOp, 0, p);
#else
  std::vector<AdamRates<float> > rates32(tensors);
  std::vector<AdamRates<double> > rates64(tensors);
  for (size_t l = 0; l < tensors; ++l) {
    const bool known = l > 0 && numbers[l] == numbers[l - 1];  // the powers cost more than a small tensor
    rates64[l] = known ? rates64[l - 1] : adam_rates<double>(settings, numbers[l]);
    rates32[l] = known ? rates32[l - 1] : adam_rates<float>(settings, numbers[l]);
  }
  AdamParams p;
  p.runs = runs.data();
  p.count = static_cast<int64_t>(runs.size());
  p.dtypes = dtypes.data();
  p.rates32 = rates32.data();
  p.rates64 = rates64.data();
  p.bytes = kAdamViews * total_bytes(views[kParameter]);
  mark_all_written({args[kParameter], args[kMean], args[kSquare], args[4]});
  count_steps(steps);
  run_kernel(p.bytes, [&] { adam(p); });
#endif
}

}  // namespace

void bind_adam(PyObject* module) { add_op<12, adam_checked>(module, kOp); }

}  // namespace hotloop
