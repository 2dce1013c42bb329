// Reading Python numbers, with errors that name op and argument.
#pragma once
#include <Python.h>

#include <cmath>
#include <string>

#include "errors.h"

namespace hotloop {

inline double read_double(const char* op, const char* arg, PyObject* object) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    type_error(op, arg, "a number", Py_TYPE(object)->tp_name);
  }
  return value;
}

// A discount or trace parameter.
inline double read_unit_interval(const char* op, const char* arg, PyObject* object) {
  const double value = read_double(op, arg, object);
  if (!(value >= 0.0 && value <= 1.0)) value_error(op, arg, "in [0, 1]", std::to_string(value));
  return value;
}

// A clip or exponent: any number >= 0; infinity means no clip.
inline double read_non_negative(const char* op, const char* arg, PyObject* object) {
  const double value = read_double(op, arg, object);
  if (!(value >= 0.0)) value_error(op, arg, ">= 0", std::to_string(value));
  return value;
}

inline int64_t read_int(const char* op, const char* arg, PyObject* object, int64_t low, int64_t high) {
  PyObject* index = PyNumber_Index(object);
  if (index == nullptr) {
    PyErr_Clear();
    type_error(op, arg, "an integer", Py_TYPE(object)->tp_name);
  }
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(index, &overflow);
  Py_DECREF(index);
  if (overflow != 0 || value < low || value > high) {
    value_error(op, arg, "in [" + std::to_string(low) + ", " + std::to_string(high) + "]", python_str(object));
  }
  return value;
}

}  // namespace hotloop
