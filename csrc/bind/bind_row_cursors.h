// RowCursors is a class with state, so it is bound with pybind11 and not as a plain function.
#pragma once
#include <pybind11/pybind11.h>

namespace hotloop {

void bind_row_cursors(pybind11::module_& m);

}  // namespace hotloop
