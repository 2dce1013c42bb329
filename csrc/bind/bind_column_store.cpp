#include <pybind11/pybind11.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "../cpu/column_store.h"
#include "../cpu/move.h"
#include "../cpu/stream.h"
#include "bind_plans.h"
#include "bind_row_cursors.h"
#include "bound_call.h"
#include "numpy_arrays.h"
#include "plan_leaves.h"
#include "scalar_arg.h"

namespace hotloop {

namespace py = pybind11;

namespace {

// Steps of a slice of agents into a buffer whose first leaf is wide: it goes where it belongs. The others are
// collected time by time in columns of their own, until `spread`.
struct ColumnStore {
  static constexpr const char* kOp = "ColumnStore.store";
  py::object cursors_object;  // keeps `cursors` alive
  CursorsObject* cursors;
  std::vector<std::string> buffer_names, column_names, source_names;
  HeldTensors columns;                    // [T, S, ...], our own: nobody moves them
  std::unique_ptr<HeldTensors>
      buffers;  // [S, T, ...]; between `bind` and `spread` nobody may replace or move them

  ColumnStore(const py::tuple& names, const py::tuple& columns_, py::object cursors_)
      : cursors_object(std::move(cursors_)),
        cursors(cursors_object.cast<CursorsObject*>()),
        buffer_names(labels("buffer", names)),
        column_names(labels("column", names, 1)),
        source_names(labels("source", names)),
        columns(column_names) {
    if (names.size() != columns_.size() + 1) {
      value_error("ColumnStore", "columns", "one for each name but the first", std::to_string(columns_.size()));
    }
    columns.hold_all(columns_);
    columns.read("ColumnStore");
    const RowCursors& at = cursors->cursors;
    for (size_t l = 0; l < columns.views.size(); ++l) {
      const View& view = columns.views[l];
      if (view.ndim < 2 || view.shape[0] != at.horizon || view.shape[1] != at.segments || !is_compact(view, 0)) {
        value_error("ColumnStore", columns.name(l),
                    "contiguous [T, S, ...] with T = " + std::to_string(at.horizon) +
                        " and S = " + std::to_string(at.segments),
                    describe(view));
      }
    }
  }

  static std::vector<std::string> labels(const char* arg, const py::tuple& names, size_t first = 0) {
    std::vector<std::string> found;
    for (size_t l = first; l < names.size(); ++l) {
      found.push_back(std::string(arg) + "[" + python_str(py::object(names[l]).ptr()) + "]");
    }
    return found;
  }

  // Whether dimensions from `first` on lie behind each other without gaps.
  static bool is_compact(const View& view, int first) {
    int64_t step = 1;
    for (int d = view.ndim - 1; d >= first; --d) {
      if (view.shape[d] != 1 && view.stride[d] != step) return false;
      step *= view.shape[d];
    }
    return true;
  }

  static int64_t entry_bytes(const View& view) {
    int64_t bytes = itemsize(view.dtype);
    for (int d = 2; d < view.ndim; ++d) bytes *= view.shape[d];
    return bytes;
  }

  // Before a rollout: where it goes. False: a buffer needs torch's dispatcher.
  bool bind(const py::tuple& buffers_) try {
    buffers.reset();
    if (buffers_.size() != buffer_names.size()) {
      value_error("ColumnStore", "buffers",
                  "one for each of the " + std::to_string(buffer_names.size()) + " names",
                  std::to_string(buffers_.size()));
    }
    auto found = std::make_unique<HeldTensors>(buffer_names);
    found->hold_all(buffers_);
    found->read("ColumnStore");
    const RowCursors& at = cursors->cursors;
    for (size_t l = 0; l < found->views.size(); ++l) {
      const View& view = found->views[l];
      bool fits = view.ndim >= 2 && view.shape[0] == at.segments && view.shape[1] == at.horizon;
      if (l > 0) {
        const View& column = columns.views[l - 1];
        fits = fits && view.dtype == column.dtype && view.ndim == column.ndim && is_compact(view, 2);
        for (int d = 2; fits && d < view.ndim; ++d) fits = view.shape[d] == column.shape[d];
      }
      if (!fits) {
        value_error("ColumnStore", found->name(l),
                    "[S, T, ...] with S = " + std::to_string(at.segments) +
                        " and T = " + std::to_string(at.horizon) + (l > 0 ? ", of its column's kind" : ""),
                    describe(view));
      }
    }
    expect_own_memory("ColumnStore", *found);
    expect_apart("ColumnStore", *found, columns);
    buffers = std::move(found);
    return true;
  } catch (const NeedsDispatcher&) {
    return false;
  }

  // `from`, [n, ...], for a leaf `to` without its first two dimensions. Trailing dimensions of 1 may be there or not.
  static View fitted(const char* name, View from, const View& to, int64_t count) {
    while (from.ndim > to.ndim - 1 && from.ndim > 1 && from.shape[from.ndim - 1] == 1) --from.ndim;
    bool fits = from.ndim == to.ndim - 1 && from.shape[0] == count;
    for (int d = 1; fits && d < from.ndim; ++d) fits = from.shape[d] == to.shape[d + 1];
    if (!fits) {
      View wanted = to;
      wanted.ndim = to.ndim - 1;
      wanted.shape[0] = count;
      for (int d = 1; d < wanted.ndim; ++d) wanted.shape[d] = to.shape[d + 1];
      value_error(kOp, name, "of shape " + describe_shape(wanted), describe(from));
    }
    return from;
  }

  // One step of agents [start, stop); how many rows are full after it, or -1 where a source needs torch's dispatcher.
  int64_t store(const py::handle& sources, int64_t start, int64_t stop) {
    return write(sources, start, stop, -1, nullptr);
  }

  // The same, and source `lent` as an array of NumPy's: in a loop in which the policy's pass empties the caches, one
  // call that does both takes half the time of two.
  py::object step(PyObject* const* args) {
    constexpr const char* kStep = "ColumnStore.step";
    constexpr int64_t kLeast = std::numeric_limits<int64_t>::min(), kMost = std::numeric_limits<int64_t>::max();
    const int64_t start = read_int(kStep, "start", args[1], kLeast, kMost);
    const int64_t stop = read_int(kStep, "stop", args[2], kLeast, kMost);
    const int64_t lent = read_int(kStep, "lent", args[3], 0, static_cast<int64_t>(source_names.size()) - 1);
    py::object array = py::none();
    const int64_t full_rows = write(args[0], start, stop, lent, &array);
    return py::make_tuple(full_rows, std::move(array));
  }

  int64_t write(const py::handle& sources, int64_t start, int64_t stop, int64_t lent, py::object* array) try {
    if (!buffers) throw Error(PyExc_RuntimeError, "ColumnStore.store: bind(buffers) must be called before");
    cursors->expect_agents(start, stop);
    RowCursors& at = cursors->cursors;
    const int64_t count = stop - start;
    if (count == 0) return at.full_rows;
    const int64_t row = at.rows[start], position = at.positions[start];
    if (!PyTuple_Check(sources.ptr()) ||
        static_cast<size_t>(PyTuple_GET_SIZE(sources.ptr())) != source_names.size()) {
      value_error(kOp, "sources", "a tuple of " + std::to_string(source_names.size()) + " tensors",
                  python_str(sources.ptr()));
    }
    for (int64_t i = 0; i < count; ++i) {
      if (at.positions[start + i] != position)
        value_error(kOp, "agents", "at one position of their rows", "several");
      if (at.rows[start + i] != row + i) value_error(kOp, "agents", "in rows that follow each other", "others");
    }
    for (size_t l = 0; l < columns.views.size(); ++l) {
      const View& to = columns.views[l];
      const int64_t bytes = entry_bytes(to);
      will_write(to.data + (position * at.segments + row) * bytes, std::min<int64_t>(count * bytes, kAskedBytes));
    }
    moves.clear();
    int64_t bytes = 0;
    for (size_t l = 0; l < source_names.size(); ++l) {
      const View& buffer = buffers->views[l];
      const char* name = source_names[l].c_str();
      PyObject* source = PyTuple_GET_ITEM(sources.ptr(), static_cast<Py_ssize_t>(l));
      const View told = read_tensor(kOp, name, source, false);  // a policy makes new ones at each step
      const View from = fitted(name, told, buffer, count);
      if (static_cast<int64_t>(l) == lent) *array = array_of(source, told);
      bytes += 2 * view_bytes(from);
      const ByteRange range = byte_range(from);
      for (size_t b = 0; b < buffers->views.size(); ++b) {
        const ByteRange& written = buffers->ranges[b];
        if (range.end <= written.begin || written.end <= range.begin) continue;
        expect_disjoint(kOp, buffers->name(b), buffers->views[b], name, from);
      }
      if (l == 0) {
        RowMove move = plan_move(buffer, 2, from, 1);
        move.to_step = buffer.stride[0] * itemsize(buffer.dtype);
        move.to += row * move.to_step + position * buffer.stride[1] * itemsize(buffer.dtype);
        move.stream = move.row.contiguous_bytes >= kStreamRowBytes && view_bytes(buffer) >= kStreamBytes;
        moves.push_back(move);
      } else {
        const View& column = columns.views[l - 1];
        RowMove move = plan_move(column, 2, from, 1);
        move.to_step = entry_bytes(column);
        move.to += (position * at.segments + row) * move.to_step;
        move.stream = false;  // the next step's lies beside it
        moves.push_back(move);
      }
    }
    run_kernel(bytes, [&] { move_rows(moves, nullptr, nullptr, count, bytes); });
    at.advance(start, stop);
    return at.full_rows;
  } catch (const NeedsDispatcher&) {
    return -1;
  }

  // After a rollout: what was collected into the rows of the buffers.
  void spread() {
    if (!buffers) throw Error(PyExc_RuntimeError, "ColumnStore.spread: bind(buffers) must be called before");
    const RowCursors& at = cursors->cursors;
    buffers->mark_written();
    int64_t bytes = 0;
    for (const View& to : columns.views) bytes += 2 * view_bytes(to);
    std::vector<Columns> all;
    for (size_t l = 0; l < columns.views.size(); ++l) {
      const View& to = buffers->views[l + 1];
      const int64_t size = itemsize(to.dtype);
      all.push_back({columns.views[l].data, to.data, at.segments, at.horizon, entry_bytes(to), to.stride[0] * size,
                     to.stride[1] * size, bytes / 2 >= kStreamBytes});
    }
    run_kernel(bytes, [&] {
      for (const Columns& each : all) spread_columns(each);
    });
  }

 private:
  static constexpr int64_t kAskedBytes = 4096;
  // Of a rollout that is larger nothing is left in the core's caches by its end, with a policy's passes in between.
  static constexpr int64_t kStreamBytes = int64_t{1} << 20;
  std::vector<RowMove> moves;
};

}  // namespace

void bind_column_store(py::module_& m) {
  py::class_<ColumnStore>(m, "ColumnStore")
      .def(py::init<const py::tuple&, const py::tuple&, py::object>(), py::arg("names"), py::arg("columns"),
           py::arg("cursors"))
      .def("bind", &ColumnStore::bind, py::arg("buffers"))
      .def("store", &ColumnStore::store, py::arg("sources"), py::arg("start"), py::arg("stop"))
      .def_property_readonly(
          "step",
          [](const py::object& self) { return BoundCall<ColumnStore, 4, &ColumnStore::step>::of(self, "step"); })
      .def("spread", &ColumnStore::spread);
}

}  // namespace hotloop
