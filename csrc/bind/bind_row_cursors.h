// RowCursors is a class with state, so it is bound with pybind11 and not as a plain function.
#pragma once
#include <pybind11/pybind11.h>

#include "../cpu/row_cursors.h"

namespace hotloop {

// Holds the two tensors alive: the kernel state points into their memory, so that reads of the tensors are live.
struct CursorsObject {
  RowCursors cursors;
  pybind11::object rows, positions;

  CursorsObject(pybind11::object rows, pybind11::object positions, pybind11::handle segments,
                pybind11::handle horizon);
  void expect_agents(int64_t start, int64_t stop) const;
  void advance(int64_t start, int64_t stop);
  int64_t position(int64_t agent) const;
  void set_counters(int64_t free_idx, int64_t full_rows);
};

void bind_row_cursors(pybind11::module_& m);

}  // namespace hotloop
