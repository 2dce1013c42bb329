// Everything that includes pybind11, compiled as one file: its headers alone are 5 s of compiling for each.
// NOLINTBEGIN(bugprone-suspicious-include)
#include "bind_act_plan.cpp"
#include "bind_column_store.cpp"
#include "bind_gather_plan.cpp"
#include "bind_lent_tensors.cpp"
#include "bind_puff_draw.cpp"
#include "bind_row_cursors.cpp"
#include "bind_stage_plan.cpp"
#include "bind_step_books.cpp"
#include "bind_step_end.cpp"
#include "bind_store_plan.cpp"
#include "core_module.cpp"
#include "plan_leaves.cpp"
// NOLINTEND(bugprone-suspicious-include)
