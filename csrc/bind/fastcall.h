// Ops are plain CPython functions (vectorcall, positional only): at the sizes of a rollout step the dispatcher of a
// pybind11 function would cost more than the kernel, and these files compile in a second without its headers. The
// Python faces give names and defaults; NotImplemented tells a face that an argument needs torch's dispatcher.
#pragma once
#include <Python.h>

#include <new>

#include "errors.h"

namespace hotloop {

template <int kArguments, void (*body)(PyObject* const* args)>
PyObject* fastcall(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != kArguments) {
    PyErr_Format(PyExc_TypeError, "expected %d positional arguments, got %zd", kArguments, count);
    return nullptr;
  }
  try {
    body(args);
    Py_RETURN_NONE;
  } catch (const NeedsDispatcher&) {
    Py_RETURN_NOTIMPLEMENTED;
  } catch (const PythonErrorSet&) {
  } catch (const Error& error) {
    PyErr_SetString(error.type, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// Throws PythonErrorSet where CPython refuses.
template <int kArguments, void (*body)(PyObject* const* args)>
void add_op(PyObject* module, const char* name) {
  static PyMethodDef definition{
      nullptr, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&fastcall<kArguments, body>)),
      METH_FASTCALL, nullptr};  // static: a function object points to its definition
  definition.ml_name = name;
  PyObject* module_name = PyModule_GetNameObject(module);
  PyObject* function = PyCFunction_NewEx(&definition, module, module_name);
  Py_XDECREF(module_name);
  if (function == nullptr || PyModule_AddObject(module, name, function) != 0) {
    Py_XDECREF(function);
    throw PythonErrorSet{};
  }
}

}  // namespace hotloop
