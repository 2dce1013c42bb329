// Plans are classes with state, bound with pybind11.
#pragma once
#include <pybind11/pybind11.h>

namespace hotloop {

void bind_act_plan(pybind11::module_& m);
void bind_store_plan(pybind11::module_& m);
void bind_gather_plan(pybind11::module_& m);
void bind_stage_plan(pybind11::module_& m);
void bind_step_books(pybind11::module_& m);
void bind_column_store(pybind11::module_& m);
void bind_lent_tensors(pybind11::module_& m);
void bind_puff_draw(pybind11::module_& m);
void bind_step_end(pybind11::module_& m);

}  // namespace hotloop
