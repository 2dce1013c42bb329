// Ops are plain CPython functions (vectorcall, positional only): at the sizes of a rollout step the dispatcher of a
// pybind11 function would cost more than the kernel, and these files compile in a second without its headers. The
// Python faces give names and defaults; NotImplemented tells a face that an argument needs torch's dispatcher.
#pragma once
#include <Python.h>

#include "device_module.h"
#include "errors.h"
#if defined(HL_BIND_CUDA)
#include "cuda_call.h"
#endif

namespace hotloop {

template <int kArguments, void (*body)(PyObject* const* args)>
struct Op {
  static PyMethodDef definition;  // static: a function object points to its definition

  static PyObject* call(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != kArguments) {
      PyErr_Format(PyExc_TypeError, "expected %d positional arguments, got %zd", kArguments, count);
      return nullptr;
    }
    try {
#if defined(HL_BIND_CUDA)
      begin_call();
#else
      if (stand_in_module != nullptr) {
        PyObject* result = call_stand_in(definition.ml_name, args, count);
        if (result != nullptr || PyErr_Occurred()) return result;
      }
#endif
      body(args);
      Py_RETURN_NONE;
    } catch (const NeedsDispatcher&) {
      Py_RETURN_NOTIMPLEMENTED;
#if !defined(HL_BIND_CUDA)
    } catch (const NeedsDevice& refusal) {
      return call_device_op(definition.ml_name, args, count, refusal);
#endif
    } catch (...) {
      set_caught_error();
    }
    return nullptr;
  }
};

template <int kArguments, void (*body)(PyObject* const* args)>
PyMethodDef Op<kArguments, body>::definition{
    nullptr, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Op<kArguments, body>::call)),
    METH_FASTCALL, nullptr};

// Throws PythonErrorSet where CPython refuses.
template <int kArguments, void (*body)(PyObject* const* args)>
void add_op(PyObject* module, const char* name) {
  PyMethodDef& definition = Op<kArguments, body>::definition;
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
