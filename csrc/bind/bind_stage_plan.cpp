#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "../cpu/load.h"
#include "../cpu/move.h"
#include "bind_plans.h"
#include "leaves.h"
#include "plan_leaves.h"

namespace hotloop {

namespace py = pybind11;

namespace {

constexpr const char* kOp = "StagePlan.stage";

struct StagePlan {
  std::vector<std::string> names;
  py::object targets;  // a tuple of tensors [n, ...]
  std::vector<double> scales;
  std::vector<int64_t> offsets;  // the first row of the source that is read
  std::vector<bool> cleared;     // rows whose episode has ended become zeros
  int64_t count;

  StagePlan(std::vector<std::string> names_, py::object targets_, std::vector<double> scales_,
            std::vector<int64_t> offsets_, std::vector<bool> cleared_, int64_t count_)
      : names(std::move(names_)),
        targets(std::move(targets_)),
        scales(std::move(scales_)),
        offsets(std::move(offsets_)),
        cleared(std::move(cleared_)),
        count(count_) {
    const size_t n = names.size();
    if (!PyTuple_Check(targets.ptr()) || py::len(targets) != n || scales.size() != n || offsets.size() != n ||
        cleared.size() != n) {
      throw Error(PyExc_ValueError, "StagePlan: names, targets, scales, offsets and cleared must be equally long");
    }
  }

  std::string name(const char* arg, size_t l) const { return std::string(arg) + "[" + names[l] + "]"; }

  RowMove plan(size_t l, const View& to, View from) const {
    bool fits = to.ndim >= 1 && to.shape[0] == count;
    if (!fits) value_error(kOp, name("target", l).c_str(), "of " + std::to_string(count) + " rows", describe(to));
    if (from.ndim + 1 == to.ndim && to.shape[to.ndim - 1] == 1) {  // [n] is as good as [n, 1]
      from.shape[from.ndim] = 1;
      from.stride[from.ndim++] = 1;
    }
    fits = from.ndim == to.ndim && (offsets[l] < 0 ? from.shape[0] == count : offsets[l] + count <= from.shape[0]);
    for (int d = 1; fits && d < to.ndim; ++d) fits = from.shape[d] == to.shape[d];
    if (!fits) {
      value_error(kOp, name("source", l).c_str(),
                  "of shape " + describe_shape(to) +
                      (offsets[l] < 0 ? "" : " from row " + std::to_string(offsets[l]) + " on"),
                  describe(from));
    }
    RowMove move = plan_move(to, 1, from, 1, scales[l]);
    if (offsets[l] > 0) move.from += offsets[l] * move.from_step;
    return move;
  }

  // sources: one tensor for each target; ends: tensors [n], true where an episode ended.
  // False: an argument needs torch's dispatcher.
  bool stage(py::handle sources, py::handle ends) try {
    HeldTensors written, read, flags;
    if (!PyList_Check(sources.ptr()) || static_cast<size_t>(PyList_GET_SIZE(sources.ptr())) != names.size()) {
      type_error(kOp, "sources", "a list of " + std::to_string(names.size()) + " tensors",
                 Py_TYPE(sources.ptr())->tp_name);
    }
    for (size_t l = 0; l < names.size(); ++l) {
      PyObject* to = PyTuple_GET_ITEM(targets.ptr(), static_cast<Py_ssize_t>(l));
      PyObject* from = PyList_GET_ITEM(sources.ptr(), static_cast<Py_ssize_t>(l));
      Py_INCREF(to);
      written.add(kOp, names[l].c_str(), to);
      Py_INCREF(from);
      read.add(kOp, names[l].c_str(), from);
    }
    if (!PyTuple_Check(ends.ptr())) type_error(kOp, "ends", "a tuple of tensors", Py_TYPE(ends.ptr())->tp_name);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(ends.ptr()); ++i) {
      PyObject* each = PyTuple_GET_ITEM(ends.ptr(), i);
      Py_INCREF(each);
      flags.add(kOp, "ends", each);
      expect_shape(kOp, "ends", flags.views.back(), {count}, "[n]");
      expect_flag(kOp, "ends", flags.views.back());
    }
    std::vector<RowMove> moves;
    moves.reserve(names.size());
    int64_t bytes = 0;
    for (size_t l = 0; l < names.size(); ++l) {
      const View& to = written.views[l];
      moves.push_back(plan(l, to, read.views[l]));
      bytes += 2 * view_bytes(to);
      expect_no_self_overlap(kOp, names[l].c_str(), to);
      for (const View& from : read.views) expect_disjoint(kOp, names[l].c_str(), to, "source", from);
      for (const View& flag : flags.views) expect_disjoint(kOp, names[l].c_str(), to, "ends", flag);
      for (size_t j = 0; j < l; ++j) {
        expect_disjoint(kOp, names[l].c_str(), to, names[j].c_str(), written.views[j]);
      }
    }
    written.mark_written();
    run_kernel(bytes, [&] {
      move_rows(moves, nullptr, nullptr, count, bytes);
      for (const View& flag : flags.views) clear_ended(moves, as_column(flag));
    });
    return true;
  } catch (const NeedsDispatcher&) {
    return false;
  }

  void clear_ended(const std::vector<RowMove>& moves, const Matrix& flags) const {
    constexpr int64_t kBlock = 256;
    float scratch[kBlock];
    alignas(8) const char zero[8] = {};
    for (int64_t begin = 0; begin < count; begin += kBlock) {
      const int64_t size = std::min(kBlock, count - begin);
      const float* ended = baseline::load_along_rows(flags, begin, 0, size, scratch);
      for (int64_t i = 0; i < size; ++i) {
        if (ended[i] == 0.0f) continue;
        for (size_t l = 0; l < moves.size(); ++l) {
          if (!cleared[l]) continue;
          RowCopy clear = moves[l].row;  // one zero read with stride 0 fills the row
          clear.from = clear.to;
          clear.contiguous_bytes = 0;
          for (int64_t& stride : clear.from_stride) stride = 0;
          copy_row(clear, moves[l].to + (begin + i) * moves[l].to_step, zero);
        }
      }
    }
  }
};

}  // namespace

void bind_stage_plan(py::module_& m) {
  py::class_<StagePlan>(m, "StagePlan")
      .def(py::init<std::vector<std::string>, py::object, std::vector<double>, std::vector<int64_t>,
                    std::vector<bool>, int64_t>(),
           py::arg("names"), py::arg("targets"), py::arg("scales"), py::arg("offsets"), py::arg("cleared"),
           py::arg("count"))
      .def("stage", &StagePlan::stage, py::arg("sources"), py::arg("ends"));
}

}  // namespace hotloop
