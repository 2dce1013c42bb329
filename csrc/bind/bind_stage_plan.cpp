#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cpu/move.h"
#include "bind_plans.h"
#include "plan_leaves.h"

namespace hotloop {

namespace py = pybind11;

namespace {

std::vector<std::string> named(const char* arg, const std::vector<std::string>& names) {
  std::vector<std::string> all;
  for (const std::string& name : names) all.push_back(std::string(arg) + "[" + name + "]");
  return all;
}

struct StagePlan {
  static constexpr const char* kOp = "StagePlan.stage";
  py::tuple targets;  // tensors [n, ...]
  std::vector<std::string> target_names, source_names;
  std::vector<double> scales;
  std::vector<int64_t> offsets;  // the first row of the source that is read; -1: the source is [n, ...] itself
  std::vector<bool> cleared;     // rows whose episode has ended become zeros
  int64_t count;

  StagePlan(const std::vector<std::string>& names, py::tuple targets_, std::vector<double> scales_,
            std::vector<int64_t> offsets_, std::vector<bool> cleared_, int64_t count_)
      : targets(std::move(targets_)),
        target_names(named("target", names)),
        source_names(named("source", names)),
        scales(std::move(scales_)),
        offsets(std::move(offsets_)),
        cleared(std::move(cleared_)),
        count(count_) {
    const size_t n = names.size();
    if (targets.size() != n || scales.size() != n || offsets.size() != n || cleared.size() != n) {
      throw Error(PyExc_ValueError, "StagePlan: names, targets, scales, offsets and cleared must be equally long");
    }
  }

  RowMove plan(const HeldTensors& written, const HeldTensors& read, size_t l) const {
    const View& to = written.views[l];
    View from = read.views[l];
    const int64_t offset = offsets[l];
    bool fits = to.ndim >= 1 && to.shape[0] == count;
    if (!fits) value_error(kOp, written.name(l), "of " + std::to_string(count) + " rows", describe(to));
    if (from.ndim + 1 == to.ndim && to.shape[to.ndim - 1] == 1) {  // [n] is as good as [n, 1]
      from.shape[from.ndim] = 1;
      from.stride[from.ndim++] = 1;
    }
    fits = from.ndim == to.ndim && (offset < 0 ? from.shape[0] == count : offset <= from.shape[0] - count);
    for (int d = 1; fits && d < to.ndim; ++d) fits = from.shape[d] == to.shape[d];
    if (!fits) {
      value_error(
          kOp, read.name(l),
          "of shape " + describe_shape(to) + (offset < 0 ? "" : " from row " + std::to_string(offset) + " on"),
          describe(read.views[l]));
    }
    RowMove move = plan_move(to, 1, from, 1, scales[l]);
    if (offset > 0) move.from += offset * move.from_step;
    return move;
  }

  // sources: one tensor for each target; ends: tensors [n], true where an episode ended.
  // False: an argument needs torch's dispatcher.
  bool stage(const py::list& sources, const py::tuple& ends) const try {
    if (sources.size() != targets.size()) {
      value_error(kOp, "sources", "a list of " + std::to_string(targets.size()) + " tensors",
                  std::to_string(sources.size()));
    }
    std::vector<std::string> end_names;
    for (size_t i = 0; i < ends.size(); ++i) end_names.push_back("ends[" + std::to_string(i) + "]");
    HeldTensors written(target_names), read(source_names), flags(end_names);
    written.hold_all(targets);
    read.objects.reserve(sources.size());
    for (const py::handle& source : sources) read.hold(py::reinterpret_borrow<py::object>(source));
    flags.hold_all(ends);
    written.read(kOp);
    read.read(kOp);
    flags.read(kOp);
    for (size_t i = 0; i < ends.size(); ++i) {
      expect_shape(kOp, flags.name(i), flags.views[i], {count}, "[n]");
      expect_flag(kOp, flags.name(i), flags.views[i]);
    }
    std::vector<RowMove> moves;
    moves.reserve(targets.size());
    int64_t bytes = 0;
    for (size_t l = 0; l < targets.size(); ++l) {
      moves.push_back(plan(written, read, l));
      bytes += 2 * view_bytes(written.views[l]);
    }
    expect_own_memory(kOp, written);
    expect_apart(kOp, written, read);
    expect_apart(kOp, written, flags);
    written.mark_written();
    run_kernel(bytes, [&] {
      move_rows(moves, nullptr, nullptr, count, bytes);
      for (size_t l = 0; l < moves.size(); ++l) {
        if (!cleared[l]) continue;
        for (const View& flag : flags.views) clear_rows(moves[l], as_column(flag), count);
      }
    });
    return true;
  } catch (const NeedsDispatcher&) {
    return false;
  }
};

}  // namespace

void bind_stage_plan(py::module_& m) {
  py::class_<StagePlan>(m, "StagePlan")
      .def(py::init<const std::vector<std::string>&, py::tuple, std::vector<double>, std::vector<int64_t>,
                    std::vector<bool>, int64_t>(),
           py::arg("names"), py::arg("targets"), py::arg("scales"), py::arg("offsets"), py::arg("cleared"),
           py::arg("count"))
      .def("stage", &StagePlan::stage, py::arg("sources"), py::arg("ends"));
}

}  // namespace hotloop
