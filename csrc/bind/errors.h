// Errors of the caller: the message names op, argument, expectation and what came.
#pragma once
#include <Python.h>

#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "../core/view.h"

namespace hotloop {

// A Python exception to raise; `type` is one of CPython's immortal exception types.
struct Error : std::runtime_error {
  PyObject* type;
  Error(PyObject* type_, const std::string& message) : std::runtime_error(message), type(type_) {}
};

// A Python exception is already set: unwind and leave it as it is.
struct PythonErrorSet {};

// Thrown where an argument is a tensor that must go through torch's dispatcher (a subclass, a fake tensor):
// the binding then returns NotImplemented and the Python face takes the registered op.
struct NeedsDispatcher {};

// Within a handler of any exception: the Python exception that it stands for is set.
inline void set_caught_error() {
  try {
    throw;
  } catch (const PythonErrorSet&) {  // NOLINT(bugprone-empty-catch): it is set
  } catch (const Error& error) {
    PyErr_SetString(error.type, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

inline std::string describe_shape(const View& view) {
  std::string text = "[";
  for (int i = 0; i < view.ndim; ++i) text += (i ? ", " : "") + std::to_string(view.shape[i]);
  return text + "]";
}

inline std::string describe(const View& view) {
  return std::string(dtype_name(view.dtype)) + " " + describe_shape(view);
}

inline std::string expectation(const char* op, const char* arg, const std::string& expected,
                               const std::string& actual) {
  return std::string(op) + ": " + arg + " must be " + expected + ", got " + actual;
}

[[noreturn]] inline void type_error(const char* op, const char* arg, const std::string& expected,
                                    const std::string& actual) {
  throw Error(PyExc_TypeError, expectation(op, arg, expected, actual));
}

[[noreturn]] inline void value_error(const char* op, const char* arg, const std::string& expected,
                                     const std::string& actual) {
  throw Error(PyExc_ValueError, expectation(op, arg, expected, actual));
}

// str(object), for messages.
inline std::string python_str(PyObject* object) {
  PyObject* text = PyObject_Str(object);
  const char* utf8 = text != nullptr ? PyUnicode_AsUTF8(text) : nullptr;
  std::string result = utf8 != nullptr ? utf8 : "?";
  Py_XDECREF(text);
  PyErr_Clear();
  return result;
}

inline std::string python_attribute(PyObject* object, const char* name) {
  PyObject* value = PyObject_GetAttrString(object, name);
  std::string result = value != nullptr ? python_str(value) : "?";
  Py_XDECREF(value);
  PyErr_Clear();
  return result;
}

}  // namespace hotloop
