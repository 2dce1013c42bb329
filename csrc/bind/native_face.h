#pragma once
#include <Python.h>

namespace hotloop {

// Adds `native_face` to the module; throws PythonErrorSet where CPython refuses.
void bind_native_face(PyObject* module);

}  // namespace hotloop
