#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "../cpu/move.h"
#include "bind_plans.h"
#include "scalar_arg.h"
#include "tensor_arg.h"

namespace hotloop {

namespace py = pybind11;

namespace {

// A slice of agents: what it did last, and its average rewards.
struct StepEndPlan {
  static constexpr const char* kOp = "StepEndPlan.finish";
  int64_t start, count;

  StepEndPlan(int64_t start_, int64_t stop) : start(start_), count(stop - start_) {}

  void expect_agents(const char* arg, const View& all) const {
    if (all.shape[0] < start + count) {
      value_error(kOp, arg, "of at least " + std::to_string(start + count) + " agents", describe(all));
    }
  }

  std::vector<RowMove> plan_actions(const View& last, View actions) const {
    if (actions.ndim == 1 && last.shape[1] == 1) {  // [n] is as good as [n, 1]
      actions.shape[actions.ndim] = 1;
      actions.stride[actions.ndim++] = 1;
    }
    expect_shape(kOp, "actions", actions, {count, last.shape[1]}, "[n, k]");
    RowMove move = plan_move(last, 1, actions, 1);
    move.to += start * move.to_step;
    return {move};
  }

  static const float* numbers(const View& view) { return reinterpret_cast<const float*>(view.data); }

  // Rounded after each operation, as three operations of torch are.
  void average(const View& averages, const View& rewards, const View& baseline, float beta) const {
    float* to = reinterpret_cast<float*>(averages.data) + start * averages.stride[0];
    const float *reward = numbers(rewards), *before = numbers(baseline);
    for (int64_t i = 0; i < count; ++i) {
      const float b = before[i * baseline.stride[0]];
      to[i * averages.stride[0]] = (reward[i * rewards.stride[0]] - b) * beta + b;
    }
  }

  // False: an argument needs torch's dispatcher.
  bool finish(const py::handle& last_object, const py::handle& actions_object, const py::handle& averages_object,
              const py::handle& rewards_object, const py::handle& baseline_object,
              const py::handle& beta_object) const try {
    const View last = read_tensor(kOp, "last_actions", last_object.ptr());
    const View actions = read_tensor(kOp, "actions", actions_object.ptr());
    expect_ndim(kOp, "last_actions", last, 2, "[A, k]");
    expect_agents("last_actions", last);
    expect_no_self_overlap(kOp, "last_actions", last);
    expect_disjoint(kOp, "last_actions", last, "actions", actions);
    const std::vector<RowMove> moves = plan_actions(last, actions);
    if (averages_object.is_none()) {
      mark_written(last_object.ptr());
      move_rows(moves, nullptr, nullptr, count, 0);
      return true;
    }
    const View averages = read_tensor(kOp, "averages", averages_object.ptr());
    const View rewards = read_tensor(kOp, "rewards", rewards_object.ptr());
    const View baseline = read_tensor(kOp, "baseline", baseline_object.ptr());
    const double beta = read_double(kOp, "beta", beta_object.ptr());
    expect_ndim(kOp, "averages", averages, 1, "[A]");
    expect_agents("averages", averages);
    expect_shape(kOp, "rewards", rewards, {count}, "[n]");
    expect_shape(kOp, "baseline", baseline, {count}, "[n]");
    expect_dtype(kOp, "averages", averages, DType::f32);
    expect_dtype(kOp, "rewards", rewards, DType::f32);
    expect_dtype(kOp, "baseline", baseline, DType::f32);
    expect_no_self_overlap(kOp, "averages", averages);
    for (const View* other : {&rewards, &baseline, &actions, &last}) {
      expect_disjoint(kOp, "averages", averages, "the others", *other);
    }
    mark_written(last_object.ptr());
    mark_written(averages_object.ptr());
    move_rows(moves, nullptr, nullptr, count, 0);
    average(averages, rewards, baseline, static_cast<float>(beta));
    return true;
  } catch (const NeedsDispatcher&) {
    return false;
  }
};

}  // namespace

void bind_step_end(py::module_& m) {
  py::class_<StepEndPlan>(m, "StepEndPlan")
      .def(py::init<int64_t, int64_t>(), py::arg("start"), py::arg("stop"))
      .def("finish", &StepEndPlan::finish, py::arg("last_actions"), py::arg("actions"), py::arg("averages"),
           py::arg("rewards"), py::arg("baseline"), py::arg("beta"));
}

}  // namespace hotloop
