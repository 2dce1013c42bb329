#include <pybind11/pybind11.h>

#include "../cpu/move.h"
#include "bind_plans.h"
#include "bind_row_cursors.h"
#include "leaves.h"
#include "plan_leaves.h"
#include "torch_bridge.h"

namespace hotloop {

namespace py = pybind11;

namespace {

constexpr const char* kOp = "StorePlan.store";

struct StorePlan {
  py::object buffer;
  LeafPaths paths;
  LeafPaths action_path;
  py::object cursors_object;
  CursorsObject* cursors;

  // What the buffer was when it was last looked at.
  std::vector<View> known;
  std::vector<RowMove> moves;  // reused from call to call

  StorePlan(py::object buffer_, py::handle paths_, py::handle action_path_, py::object cursors_)
      : buffer(std::move(buffer_)),
        paths("StorePlan", paths_.ptr()),
        action_path("StorePlan", py::make_tuple(action_path_).ptr()),
        cursors_object(std::move(cursors_)),
        cursors(cursors_object.cast<CursorsObject*>()) {
    HeldTensors leaves;
    paths.read(kOp, buffer.ptr(), &leaves);
    check_buffer(leaves.views);
  }

  const std::string leaf(const char* arg, size_t l) const { return std::string(arg) + "[" + paths.name(l) + "]"; }

  // A replaced or resized leaf is taken as it is now, if it still fits.
  void check_buffer(const std::vector<View>& views) {
    bool same = views.size() == known.size();
    for (size_t l = 0; same && l < views.size(); ++l) same = same_view(views[l], known[l]);
    if (same) return;
    const int64_t segments = cursors->cursors.segments, horizon = cursors->cursors.horizon;
    for (size_t l = 0; l < views.size(); ++l) {
      if (views[l].ndim < 2 || views[l].shape[0] != segments || views[l].shape[1] != horizon) {
        value_error(kOp, leaf("buffer", l).c_str(),
                    "[S, T, ...] with S = " + std::to_string(segments) + " and T = " + std::to_string(horizon),
                    describe(views[l]));
      }
      const std::string name = leaf("buffer", l);
      expect_no_self_overlap(kOp, name.c_str(), views[l]);
      for (size_t j = 0; j < l; ++j) {
        expect_disjoint(kOp, name.c_str(), views[l], leaf("buffer", j).c_str(), views[j]);
      }
    }
    known = views;
  }

  // What differs from step to step is one pointer; the rest of `moves` is worked out again only when it changed.
  int64_t plan_moves(const HeldTensors& sources, const HeldTensors& leaves, int64_t count) {
    int64_t bytes = 0;
    moves.resize(sources.views.size());
    for (size_t l = 0; l < sources.views.size(); ++l) {
      const View &source = sources.views[l], &to = leaves.views[l];
      bool fits = source.ndim == to.ndim - 1 && source.shape[0] == count;
      for (int i = 1; fits && i < source.ndim; ++i) fits = source.shape[i] == to.shape[i + 1];
      if (!fits) {
        View wanted = to;
        wanted.ndim = to.ndim - 1;
        wanted.shape[0] = count;
        for (int i = 1; i < wanted.ndim; ++i) wanted.shape[i] = to.shape[i + 1];
        value_error(kOp, leaf("source", l).c_str(), "of shape " + describe_shape(wanted), describe(source));
      }
      for (size_t j = 0; j < leaves.views.size(); ++j) {
        expect_disjoint(kOp, "buffer", leaves.views[j], "source", source);
      }
      moves[l] = plan_move(to, 2, source, 1);
      moves[l].to_step = to.stride[0] * itemsize(to.dtype);
      bytes += 2 * view_bytes(source);
    }
    return bytes;
  }

  // The last actions of the slice, when they are wanted and fit; what is remembered is returned.
  PyObject* plan_actions(PyObject* source, PyObject* last, int64_t start, int64_t count, HeldTensors* held,
                         RowMove* move) const {
    if (last == Py_None || PyList_Check(source) || PyTuple_Check(source)) return nullptr;
    PyObject* actions = action_path.find(source, 0);
    if (actions == nullptr) {
      PyErr_Clear();
      return nullptr;
    }
    if (tensor_kind(actions) != TensorKind::exact) {
      Py_DECREF(actions);
      return nullptr;
    }
    held->add(kOp, "actions", actions);
    Py_INCREF(last);
    held->add(kOp, "last_actions", last);
    View from = held->views[0];
    const View& to = held->views[1];
    if (from.ndim == 1) {
      from.ndim = 2;
      from.shape[1] = 1;
      from.stride[1] = 1;
    }
    if (from.ndim != 2 || to.ndim != 2 || from.shape[0] != count || from.shape[1] != to.shape[1] ||
        start + count > to.shape[0]) {
      return nullptr;
    }
    expect_no_self_overlap(kOp, "last_actions", to);
    expect_disjoint(kOp, "last_actions", to, "actions", from);
    *move = plan_move(to, 1, from, 1);
    move->to += start * move->to_step;
    return actions;
  }

  // Returns the actions that were remembered, or None.
  py::object store(py::handle source, int64_t start, int64_t stop, py::handle last) try {
    RowCursors& at = cursors->cursors;
    cursors->expect_agents(start, stop);
    const int64_t count = stop - start;
    if (count == 0) return py::none();
    HeldTensors leaves, sources, actions;
    paths.read(kOp, buffer.ptr(), &leaves);
    paths.read(kOp, source.ptr(), &sources);
    check_buffer(leaves.views);

    const int64_t* rows = at.rows + start;
    const int64_t* positions = at.positions + start;
    const int64_t position = positions[0];
    bool in_order = true, valid = true, together = true;
    for (int64_t i = 0; i < count; ++i) {
      in_order &= rows[i] == rows[0] + i;
      valid &= static_cast<uint64_t>(rows[i]) < static_cast<uint64_t>(at.segments);
      together &= positions[i] == position;
    }
    if (!together) value_error(kOp, "agents", "at one position of their rows", "several");
    if (!valid || position < 0 || position >= at.horizon) {
      throw Error(PyExc_IndexError, std::string(kOp) + ": the cursors of agents [" + std::to_string(start) + ", " +
                                        std::to_string(stop) + ") must lie in [" + std::to_string(at.segments) +
                                        ", " + std::to_string(at.horizon) + "]");
    }

    const int64_t bytes = plan_moves(sources, leaves, count);
    for (size_t l = 0; l < moves.size(); ++l) {
      const View& to = leaves.views[l];
      moves[l].to += position * to.stride[1] * itemsize(to.dtype);
      if (in_order) moves[l].to += rows[0] * moves[l].to_step;
    }
    std::vector<RowMove> remembered(1);
    PyObject* action = plan_actions(source.ptr(), last.ptr(), start, count, &actions, &remembered[0]);

    leaves.mark_written();
    if (action != nullptr) mark_written(last.ptr());
    run_kernel(bytes, [&] {
      move_rows(moves, in_order ? nullptr : rows, nullptr, count, bytes);
      if (action != nullptr) move_rows(remembered, nullptr, nullptr, count, 0);
    });
    at.advance(start, stop);
    return action != nullptr ? py::reinterpret_borrow<py::object>(action) : py::none();
  } catch (const NeedsDispatcher&) {
    return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  }
};

}  // namespace

void bind_store_plan(py::module_& m) {
  py::class_<StorePlan>(m, "StorePlan")
      .def(py::init<py::object, py::handle, py::handle, py::object>(), py::arg("buffer"), py::arg("paths"),
           py::arg("action_path"), py::arg("cursors"))
      .def("store", &StorePlan::store, py::arg("source"), py::arg("start"), py::arg("stop"),
           py::arg("last_actions"));
}

}  // namespace hotloop
