// Errors of the caller: the message names op, argument, expectation and what came.
#pragma once
#include <pybind11/pybind11.h>

#include <sstream>
#include <string>

#include "../core/view.h"

namespace hotloop {

namespace py = pybind11;

// Thrown where an argument is a tensor that must go through torch's dispatcher (a subclass, a fake tensor):
// the binding then returns NotImplemented and the Python face takes the registered op.
struct NeedsDispatcher {};

inline std::string describe_shape(const View& view) {
  std::ostringstream text;
  text << '[';
  for (int i = 0; i < view.ndim; ++i) text << (i ? ", " : "") << view.shape[i];
  text << ']';
  return text.str();
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
  throw py::type_error(expectation(op, arg, expected, actual));
}

[[noreturn]] inline void value_error(const char* op, const char* arg, const std::string& expected,
                                     const std::string& actual) {
  throw py::value_error(expectation(op, arg, expected, actual));
}

}  // namespace hotloop
