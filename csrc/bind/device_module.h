// Where an op goes whose tensors lie on a CUDA device: to the function of the same name in hotloop._cuda, which is
// imported when the first such tensor arrives.
#pragma once
#include <Python.h>

#include "errors.h"

namespace hotloop {

// Thrown where a tensor lies on a CUDA device. As an Error it says that this op takes none.
struct NeedsDevice : Error {
  using Error::Error;
};

// Calls the op of hotloop._cuda; TypeError where there is none, or no such module.
PyObject* call_device_op(const char* name, PyObject* const* args, Py_ssize_t count, const NeedsDevice& refusal);

// Whether hotloop._cuda is there and has the op: for ops that have another road where it is not.
bool has_device_op(const char* name);

// For tests: while a module is set, all its ops stand in for those of this one. Null without.
extern PyObject* stand_in_module;
PyObject* call_stand_in(const char* name, PyObject* const* args, Py_ssize_t count);

void bind_device_module(PyObject* module);

}  // namespace hotloop
