#include <pybind11/pybind11.h>

#include "../cpu/move.h"
#include "bind_plans.h"
#include "bind_row_cursors.h"
#include "plan_leaves.h"
#include "torch_bridge.h"

namespace hotloop {

namespace py = pybind11;

namespace {

struct StorePlan {
  static constexpr const char* kOp = "StorePlan.store";
  py::object buffer;
  LeafPaths paths;
  LeafPaths action_path;
  py::object cursors_object;  // keeps `cursors` alive
  CursorsObject* cursors;
  std::vector<std::string> buffer_names, source_names, action_names, last_names;
  std::vector<View> known;  // the buffer as it was when it was last checked

  StorePlan(py::object buffer_, const py::handle& paths_, const py::tuple& action_path_, py::object cursors_)
      : buffer(std::move(buffer_)),
        paths("StorePlan", paths_),
        action_path("StorePlan", py::make_tuple(action_path_)),
        cursors_object(std::move(cursors_)),
        cursors(cursors_object.cast<CursorsObject*>()),
        buffer_names(paths.names("buffer")),
        source_names(paths.names("source")),
        action_names(action_path.names("source")),
        last_names({"last_actions"}) {
    HeldTensors leaves(buffer_names);
    paths.find_all("StorePlan", "buffer", buffer, &leaves);
    try {
      leaves.read("StorePlan");
    } catch (const NeedsDispatcher&) {
      return;  // tensor subclasses are left to torch, and to the moment they are written
    }
    check_buffer("StorePlan", leaves);
  }

  // A leaf that was replaced, moved or resized is taken as it is now, if it still fits.
  void check_buffer(const char* op, const HeldTensors& leaves) {
    bool same = leaves.views.size() == known.size();
    for (size_t l = 0; same && l < known.size(); ++l) same = same_view(leaves.views[l], known[l]);
    if (same) return;
    const int64_t segments = cursors->cursors.segments, horizon = cursors->cursors.horizon;
    for (size_t l = 0; l < leaves.views.size(); ++l) {
      const View& view = leaves.views[l];
      if (view.ndim < 2 || view.shape[0] != segments || view.shape[1] != horizon) {
        value_error(op, leaves.name(l),
                    "[S, T, ...] with S = " + std::to_string(segments) + " and T = " + std::to_string(horizon),
                    describe(view));
      }
    }
    expect_own_memory(op, leaves);
    known = leaves.views;
  }

  std::vector<RowMove> plan_moves(const HeldTensors& leaves, const HeldTensors& sources, int64_t count,
                                  int64_t position) const {
    std::vector<RowMove> moves;
    moves.reserve(sources.views.size());
    for (size_t l = 0; l < sources.views.size(); ++l) {
      const View &source = sources.views[l], &to = leaves.views[l];
      bool fits = source.ndim == to.ndim - 1 && source.shape[0] == count;
      for (int i = 1; fits && i < source.ndim; ++i) fits = source.shape[i] == to.shape[i + 1];
      if (!fits) {
        View wanted = to;
        wanted.ndim = to.ndim - 1;
        wanted.shape[0] = count;
        for (int i = 1; i < wanted.ndim; ++i) wanted.shape[i] = to.shape[i + 1];
        value_error(kOp, sources.name(l), "of shape " + describe_shape(wanted), describe(source));
      }
      RowMove move = plan_move(to, 2, source, 1);
      move.to_step = to.stride[0] * itemsize(to.dtype);
      move.to += position * to.stride[1] * itemsize(to.dtype);
      moves.push_back(move);
    }
    return moves;
  }

  // The step's actions, if it has any.
  py::object find_actions(const py::handle& source) const {
    if (PyList_Check(source.ptr()) || PyTuple_Check(source.ptr())) return py::none();
    py::object actions = action_path.find(source, 0);
    if (!actions) {
      if (!PyErr_ExceptionMatches(PyExc_KeyError)) throw PythonErrorSet{};
      PyErr_Clear();
      return py::none();
    }
    return actions;
  }

  // How they are remembered; empty where they are not of the memory's width.
  std::vector<RowMove> plan_actions(const HeldTensors& last, const HeldTensors& actions, int64_t start,
                                    int64_t count) const {
    const View& to = last.views[0];
    View from = actions.views[0];
    if (from.ndim == 1) {  // [n] is as good as [n, 1]
      from.ndim = 2;
      from.shape[1] = 1;
      from.stride[1] = 1;
    }
    const bool fits = from.ndim == 2 && to.ndim == 2 && from.shape[0] == count && from.shape[1] == to.shape[1] &&
                      start + count <= to.shape[0];
    if (!fits) return {};
    expect_own_memory(kOp, last);
    expect_apart(kOp, last, actions);
    RowMove move = plan_move(to, 1, from, 1);
    move.to += start * move.to_step;
    return {move};
  }

  // Returns the actions that were remembered, or None; NotImplemented: an argument needs torch's dispatcher.
  py::object store(const py::handle& source, int64_t start, int64_t stop, const py::handle& last_actions) try {
    cursors->expect_agents(start, stop);
    const int64_t count = stop - start;
    if (count == 0) return py::none();
    HeldTensors leaves(buffer_names), sources(source_names), actions(action_names), last(last_names);
    paths.find_all(kOp, "source", source, &sources);
    if (!last_actions.is_none()) {
      py::object found = find_actions(source);
      if (tensor_kind(found.ptr()) == TensorKind::exact) {
        actions.hold(std::move(found));
        last.hold(py::reinterpret_borrow<py::object>(last_actions));
      }
    }
    paths.find_all(kOp, "buffer", buffer, &leaves);
    leaves.read(kOp);
    sources.read(kOp);
    actions.read(kOp);
    last.read(kOp);
    check_buffer(kOp, leaves);
    expect_apart(kOp, leaves, sources);

    // A copy: what is checked here must still hold when the kernel reads it without the GIL.
    RowCursors& at = cursors->cursors;
    const std::vector<int64_t> rows(at.rows + start, at.rows + stop);
    const int64_t position = at.positions[start];
    bool in_order = true, valid = position >= 0 && position < at.horizon, together = true;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = rows[static_cast<size_t>(i)];
      in_order &= row == rows[0] + i;
      valid &= row >= 0 && row < at.segments;
      together &= at.positions[start + i] == position;
    }
    if (!together) value_error(kOp, "agents", "at one position of their rows", "several");
    if (!valid) {
      throw Error(PyExc_IndexError, std::string(kOp) + ": the cursors of agents [" + std::to_string(start) + ", " +
                                        std::to_string(stop) + ") must lie in the buffer [" +
                                        std::to_string(at.segments) + ", " + std::to_string(at.horizon) + "]");
    }

    std::vector<RowMove> moves = plan_moves(leaves, sources, count, position);
    std::vector<RowMove> remembered;
    if (!last.views.empty()) remembered = plan_actions(last, actions, start, count);
    int64_t bytes = 0;
    for (size_t l = 0; l < moves.size(); ++l) {
      if (in_order) moves[l].to += rows[0] * moves[l].to_step;
      bytes += 2 * view_bytes(sources.views[l]);
    }
    leaves.mark_written();
    if (!remembered.empty()) last.mark_written();
    run_kernel(bytes, [&] {
      move_rows(moves, in_order ? nullptr : rows.data(), nullptr, count, bytes);
      move_rows(remembered, nullptr, nullptr, count, 0);
    });
    at.advance(start, stop);
    return remembered.empty() ? py::none() : actions.objects[0];
  } catch (const NeedsDispatcher&) {
    return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  }
};

}  // namespace

void bind_store_plan(py::module_& m) {
  py::class_<StorePlan>(m, "StorePlan")
      .def(py::init<py::object, const py::handle&, const py::tuple&, py::object>(), py::arg("buffer"),
           py::arg("paths"), py::arg("action_path"), py::arg("cursors"))
      .def("store", &StorePlan::store, py::arg("source"), py::arg("start"), py::arg("stop"),
           py::arg("last_actions"));
}

}  // namespace hotloop
