// One function per op, defined in bind_<op>.cpp.
#pragma once
#include <Python.h>

namespace hotloop {

void bind_puff_advantage(PyObject* module);
void bind_gae(PyObject* module);
void bind_reverse_scan(PyObject* module);
void bind_delta_lambda(PyObject* module);
void bind_td_lambda(PyObject* module);
void bind_discounted_return(PyObject* module);
void bind_vtrace(PyObject* module);
void bind_retrace(PyObject* module);
void bind_row_priorities(PyObject* module);
void bind_sample_segments(PyObject* module);
void bind_gather(PyObject* module);
void bind_scatter(PyObject* module);
void bind_store(PyObject* module);
void bind_last_actions(PyObject* module);
void bind_huge_pages(PyObject* module);
void bind_categorical(PyObject* module);
void bind_gaussian(PyObject* module);
void bind_ppo_loss(PyObject* module);
void bind_importance_ratio(PyObject* module);
void bind_return_moments(PyObject* module);
void bind_clip_grad_norm(PyObject* module);
void bind_adam(PyObject* module);
void bind_joined_calls(PyObject* module);
void bind_tanh(PyObject* module);
void bind_scale_pixels(PyObject* module);
void bind_pixel_linear(PyObject* module);

}  // namespace hotloop
