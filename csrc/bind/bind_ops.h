// One function per op, defined in bind_<op>.cpp.
#pragma once
#include <pybind11/pybind11.h>

namespace hotloop {

void bind_puff_advantage(pybind11::module_& m);
void bind_gae(pybind11::module_& m);
void bind_row_priorities(pybind11::module_& m);
void bind_sample_segments(pybind11::module_& m);
void bind_gather(pybind11::module_& m);
void bind_scatter(pybind11::module_& m);
void bind_store(pybind11::module_& m);
void bind_last_actions(pybind11::module_& m);
void bind_row_cursors(pybind11::module_& m);

}  // namespace hotloop
