#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cpu/move.h"
#include "bind_plans.h"
#include "leaves.h"
#include "plan_leaves.h"

namespace hotloop {

namespace py = pybind11;

namespace {

constexpr const char* kOp = "GatherPlan.gather";

struct GatherPlan {
  LeafPaths paths;
  py::object out;  // a tuple of tensors; kept, so a leaf that is replaced elsewhere does not concern the plan
  std::vector<double> scales;

  GatherPlan(py::handle paths_, py::object out_, std::vector<double> scales_)
      : paths("GatherPlan", paths_.ptr()), out(std::move(out_)), scales(std::move(scales_)) {
    if (!PyTuple_Check(out.ptr()) || py::len(out) != paths.size() || scales.size() != paths.size()) {
      throw Error(PyExc_ValueError, "GatherPlan: out must be a tuple of " + std::to_string(paths.size()) +
                                        " tensors, one for each path, with as many scales");
    }
  }

  std::string name(const char* arg, size_t l) const { return std::string(arg) + "[" + paths.name(l) + "]"; }

  // Rows `indices` of every leaf of `source`. False: an argument needs torch's dispatcher.
  bool gather(py::handle source, py::handle indices) try {
    HeldTensors leaves, outputs;
    paths.read(kOp, source.ptr(), &leaves);
    for (size_t l = 0; l < paths.size(); ++l) {
      PyObject* each = PyTuple_GET_ITEM(out.ptr(), static_cast<Py_ssize_t>(l));
      Py_INCREF(each);
      outputs.add(kOp, "out", each);
    }
    const View i = read_tensor(kOp, "indices", indices.ptr());
    expect_ndim(kOp, "indices", i, 1, "[k]");
    const int64_t count = i.shape[0];
    if (count > 1 && i.stride[0] != 1) value_error(kOp, "indices", "contiguous", "a strided view");
    int64_t rows = 0, bytes = 0;
    std::vector<RowMove> moves(paths.size());
    for (size_t l = 0; l < paths.size(); ++l) {
      const View &from = leaves.views[l], &to = outputs.views[l];
      bool fits = from.ndim >= 1 && from.ndim == to.ndim && to.shape[0] == count;
      for (int d = 1; fits && d < from.ndim; ++d) fits = from.shape[d] == to.shape[d];
      if (!fits) {
        View wanted = from;
        wanted.shape[0] = count;
        value_error(kOp, name("out", l).c_str(), "of shape " + describe_shape(wanted), describe(to));
      }
      if (l == 0) rows = from.shape[0];
      if (from.shape[0] != rows) {
        value_error(kOp, name("source", l).c_str(), "of " + std::to_string(rows) + " rows, like the first leaf",
                    describe(from));
      }
      moves[l] = plan_move(to, 1, from, 1, scales[l]);
      bytes += view_bytes(to) + count * (from.shape[0] > 0 ? view_bytes(from) / from.shape[0] : 0);
    }
    expect_indices(kOp, "indices", i, rows, "rows of the source");
    for (size_t l = 0; l < paths.size(); ++l) {
      const View& to = outputs.views[l];
      expect_no_self_overlap(kOp, "out", to);
      expect_disjoint(kOp, "out", to, "indices", i);
      for (const View& from : leaves.views) expect_disjoint(kOp, "out", to, "source", from);
      for (size_t j = 0; j < l; ++j) expect_disjoint(kOp, "out", to, "out", outputs.views[j]);
    }
    outputs.mark_written();
    const int64_t* where = reinterpret_cast<const int64_t*>(i.data);
    run_kernel(bytes, [&] { move_rows(moves, nullptr, where, count, bytes); });
    return true;
  } catch (const NeedsDispatcher&) {
    return false;
  }
};

}  // namespace

void bind_gather_plan(py::module_& m) {
  py::class_<GatherPlan>(m, "GatherPlan")
      .def(py::init<py::handle, py::object, std::vector<double>>(), py::arg("paths"), py::arg("out"),
           py::arg("scales"))
      .def("gather", &GatherPlan::gather, py::arg("source"), py::arg("indices"));
}

}  // namespace hotloop
