#include "bind_row_cursors.h"

#include <limits>
#include <utility>

#include "scalar_arg.h"
#include "tensor_arg.h"

namespace hotloop {

namespace py = pybind11;

namespace {

constexpr const char* kClass = "RowCursors";

}  // namespace

CursorsObject::CursorsObject(py::object rows_, py::object positions_, py::handle segments, py::handle horizon)
    : rows(std::move(rows_)), positions(std::move(positions_)) {
  const View r = read_tensor(kClass, "rows", rows.ptr());
  const View t = read_tensor(kClass, "positions", positions.ptr());
  expect_ndim(kClass, "rows", r, 1, "[A]");
  expect_shape(kClass, "positions", t, {r.shape[0]}, "[A]");
  expect_dtype(kClass, "rows", r, DType::i64);
  expect_dtype(kClass, "positions", t, DType::i64);
  if (r.shape[0] > 1 && (r.stride[0] != 1 || t.stride[0] != 1)) {
    value_error(kClass, "rows and positions", "contiguous", "strided views");
  }
  expect_disjoint(kClass, "positions", t, "rows", r);
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  cursors.rows = reinterpret_cast<int64_t*>(r.data);
  cursors.positions = reinterpret_cast<int64_t*>(t.data);
  cursors.agents = r.shape[0];
  cursors.segments = read_int(kClass, "segments", segments.ptr(), 1, kMax);
  cursors.horizon = read_int(kClass, "horizon", horizon.ptr(), 1, kMax);
  cursors.reset();
}

void CursorsObject::expect_agents(int64_t start, int64_t stop) const {
  if (start < 0 || stop < start || stop > cursors.agents) {
    throw Error(PyExc_IndexError, "RowCursors: agents [" + std::to_string(start) + ", " + std::to_string(stop) +
                                      ") must lie in [0, " + std::to_string(cursors.agents) + ")");
  }
}

void CursorsObject::advance(int64_t start, int64_t stop) {
  expect_agents(start, stop);
  cursors.advance(start, stop);
}

int64_t CursorsObject::position(int64_t agent) const {
  expect_agents(agent, static_cast<int64_t>(static_cast<uint64_t>(agent) + 1));  // of the largest: below `agent`
  return cursors.positions[agent];
}

void CursorsObject::set_counters(int64_t free_idx, int64_t full_rows) {
  constexpr int64_t kMost = int64_t{1} << 62;  // more are added to it
  if (free_idx < 0 || free_idx >= cursors.segments || full_rows < 0 || full_rows > kMost) {
    throw Error(PyExc_ValueError, "RowCursors: free_idx must be in [0, " + std::to_string(cursors.segments) +
                                      ") and full_rows >= 0, got " + std::to_string(free_idx) + " and " +
                                      std::to_string(full_rows));
  }
  cursors.free_idx = free_idx;
  cursors.full_rows = full_rows;
}

void bind_row_cursors(py::module_& m) {
  py::class_<CursorsObject>(m, kClass)
      .def(py::init<py::object, py::object, py::handle, py::handle>(), py::arg("rows"), py::arg("positions"),
           py::arg("segments"), py::arg("horizon"))
      .def("reset", [](CursorsObject& self) { self.cursors.reset(); })
      .def("advance", &CursorsObject::advance, py::arg("start"), py::arg("stop"))
      .def("position", &CursorsObject::position, py::arg("agent"))
      .def("set_counters", &CursorsObject::set_counters, py::arg("free_idx"), py::arg("full_rows"))
      .def_property_readonly("free_idx", [](const CursorsObject& self) { return self.cursors.free_idx; })
      .def_property_readonly("full_rows", [](const CursorsObject& self) { return self.cursors.full_rows; });
}

}  // namespace hotloop
