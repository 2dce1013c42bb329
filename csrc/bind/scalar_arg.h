// Reading Python numbers, with errors that name op and argument.
#pragma once
#include <pybind11/pybind11.h>

#include <cmath>
#include <string>

#include "errors.h"

namespace hotloop {

inline double read_double(const char* op, const char* arg, py::handle object) {
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    type_error(op, arg, "a number", Py_TYPE(object.ptr())->tp_name);
  }
  return value;
}

// A discount or trace parameter.
inline double read_unit_interval(const char* op, const char* arg, py::handle object) {
  const double value = read_double(op, arg, object);
  if (!(value >= 0.0 && value <= 1.0)) value_error(op, arg, "in [0, 1]", std::to_string(value));
  return value;
}

// A clip or exponent: any number >= 0; infinity means no clip.
inline double read_non_negative(const char* op, const char* arg, py::handle object) {
  const double value = read_double(op, arg, object);
  if (!(value >= 0.0)) value_error(op, arg, ">= 0", std::to_string(value));
  return value;
}

inline int64_t read_int(const char* op, const char* arg, py::handle object, int64_t low, int64_t high) {
  py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) {
    PyErr_Clear();
    type_error(op, arg, "an integer", Py_TYPE(object.ptr())->tp_name);
  }
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0 || value < low || value > high) {
    value_error(op, arg, "in [" + std::to_string(low) + ", " + std::to_string(high) + "]",
                py::cast<std::string>(py::str(index)));
  }
  return value;
}

}  // namespace hotloop
