// A method of a class of pybind11's as a plain CPython function: the dispatcher of a pybind11 method costs a
// microsecond or two where a policy's pass has emptied the caches, and the steps of a rollout are many.
#pragma once
#include <pybind11/pybind11.h>

#include "errors.h"

namespace hotloop {

template <class T, int kArguments, pybind11::object (T::*method)(PyObject* const* args)>
struct BoundCall {
  static PyMethodDef definition;  // static: a function object points to its definition

  // The function of `owner`, a Python object that holds a T; positional arguments only. It keeps the owner alive.
  static pybind11::object of(const pybind11::object& owner, const char* name) {
    definition.ml_name = name;
    auto self = pybind11::reinterpret_steal<pybind11::object>(PyCapsule_New(
        owner.cast<T*>(), nullptr,
        [](PyObject* capsule) { Py_XDECREF(static_cast<PyObject*>(PyCapsule_GetContext(capsule))); }));
    if (!self) throw PythonErrorSet{};
    PyCapsule_SetContext(self.ptr(), owner.inc_ref().ptr());
    PyObject* function = PyCFunction_NewEx(&definition, self.ptr(), nullptr);
    if (function == nullptr) throw PythonErrorSet{};
    return pybind11::reinterpret_steal<pybind11::object>(function);
  }

 private:
  static PyObject* call(PyObject* self, PyObject* const* args, Py_ssize_t count) {
    if (count != kArguments) {
      PyErr_Format(PyExc_TypeError, "expected %d positional arguments, got %zd", kArguments, count);
      return nullptr;
    }
    try {
      return (static_cast<T*>(PyCapsule_GetPointer(self, nullptr))->*method)(args).release().ptr();
    } catch (pybind11::error_already_set& error) {
      error.restore();
    } catch (...) {
      set_caught_error();
    }
    return nullptr;
  }
};

template <class T, int kArguments, pybind11::object (T::*method)(PyObject* const* args)>
PyMethodDef BoundCall<T, kArguments, method>::definition{
    nullptr, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&BoundCall<T, kArguments, method>::call)),
    METH_FASTCALL, nullptr};

}  // namespace hotloop
