#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cpu/move.h"
#include "bind_plans.h"
#include "plan_leaves.h"

namespace hotloop {

namespace py = pybind11;

namespace {

struct GatherPlan {
  static constexpr const char* kOp = "GatherPlan.gather";
  LeafPaths paths;
  py::tuple out;  // tensors of the caller's; what is read in their place is looked up at every call
  std::vector<double> scales;
  std::vector<std::string> out_names, source_names;

  GatherPlan(const py::handle& paths_, py::tuple out_, std::vector<double> scales_)
      : paths("GatherPlan", paths_),
        out(std::move(out_)),
        scales(std::move(scales_)),
        out_names(paths.names("out")),
        source_names(paths.names("source")) {
    if (out.size() != paths.size() || scales.size() != paths.size()) {
      throw Error(PyExc_ValueError, "GatherPlan: out and scales must have one entry for each of the " +
                                        std::to_string(paths.size()) + " paths");
    }
  }

  // Rows `indices` of every leaf of `source`. False: an argument needs torch's dispatcher.
  bool gather(const py::handle& source, const py::handle& indices) try {
    HeldTensors read(source_names), written(out_names);
    paths.find_all(kOp, "source", source, &read);
    written.hold_all(out);
    read.read(kOp);
    written.read(kOp);
    const View i = read_tensor(kOp, "indices", indices.ptr());
    expect_ndim(kOp, "indices", i, 1, "[k]");
    const int64_t count = i.shape[0];

    const int64_t rows = paths.size() ? first_size(read, 0) : 0;
    int64_t bytes = 0;
    std::vector<RowMove> moves;
    moves.reserve(paths.size());
    for (size_t l = 0; l < paths.size(); ++l) {
      const View &from = read.views[l], &to = written.views[l];
      if (first_size(read, l) != rows) {
        value_error(kOp, read.name(l), "of " + std::to_string(rows) + " rows, like the first leaf",
                    describe(from));
      }
      bool fits = from.ndim == to.ndim && to.shape[0] == count;
      for (int d = 1; fits && d < from.ndim; ++d) fits = from.shape[d] == to.shape[d];
      if (!fits) {
        View wanted = from;
        wanted.shape[0] = count;
        value_error(kOp, written.name(l), "of shape " + describe_shape(wanted), describe(to));
      }
      moves.push_back(plan_move(to, 1, from, 1, scales[l]));
      bytes += 2 * view_bytes(to);
    }
    if (paths.size()) expect_indices(kOp, "indices", i, rows, "rows of the source");
    expect_own_memory(kOp, written);
    expect_apart(kOp, written, read);
    for (size_t l = 0; l < paths.size(); ++l)
      expect_disjoint(kOp, written.name(l), written.views[l], "indices", i);
    // A copy: what was checked must still hold when the kernel reads it without the GIL.
    std::vector<int64_t> where(static_cast<size_t>(count));
    for (int64_t j = 0; paths.size() && j < count; ++j) {
      where[static_cast<size_t>(j)] = reinterpret_cast<const int64_t*>(i.data)[j * i.stride[0]];
    }
    written.mark_written();
    run_kernel(bytes, [&] { move_rows(moves, nullptr, where.data(), count, bytes); });
    return true;
  } catch (const NeedsDispatcher&) {
    return false;
  }

  static int64_t first_size(const HeldTensors& read, size_t l) {
    const View& view = read.views[l];
    if (view.ndim < 1) value_error(kOp, read.name(l), "of at least 1 dimension", describe(view));
    return view.shape[0];
  }
};

}  // namespace

void bind_gather_plan(py::module_& m) {
  py::class_<GatherPlan>(m, "GatherPlan")
      .def(py::init<const py::handle&, py::tuple, std::vector<double>>(), py::arg("paths"), py::arg("out"),
           py::arg("scales"))
      .def("gather", &GatherPlan::gather, py::arg("source"), py::arg("indices"));
}

}  // namespace hotloop
