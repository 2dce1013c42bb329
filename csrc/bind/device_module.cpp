#include "device_module.h"

#include <string>

namespace hotloop {

PyObject* stand_in_module = nullptr;

namespace {

constexpr const char* kModule = "hotloop._cuda";

PyObject* refuse(const NeedsDevice& refusal, const std::string& why) {
  PyErr_SetString(refusal.type, (std::string(refusal.what()) + " (" + why + ")").c_str());
  return nullptr;
}

// What Python says of the error that is set, which is cleared.
std::string said() {
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  const std::string text = value != nullptr ? python_str(value) : "no reason given";
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(traceback);
  return text;
}

PyObject* set_stand_in(PyObject*, PyObject* module) {
  PyObject* before = stand_in_module;
  stand_in_module = module == Py_None ? nullptr : module;
  Py_XINCREF(stand_in_module);
  Py_XDECREF(before);
  Py_RETURN_NONE;
}

PyMethodDef definition{"set_stand_in", &set_stand_in, METH_O,
                       "set_stand_in(module)\n\nFor tests: runs the ops of that module, where it has them."};

}  // namespace

PyObject* call_device_op(const char* name, PyObject* const* args, Py_ssize_t count, const NeedsDevice& refusal) {
  static PyObject* module = nullptr;
  if (module == nullptr) module = PyImport_ImportModule(kModule);
  if (module == nullptr) {
    if (PyErr_ExceptionMatches(PyExc_ModuleNotFoundError)) {
      PyErr_Clear();
      return refuse(refusal, "this hotloop was built without CUDA; see hotloop doctor");
    }
    return refuse(refusal, "hotloop._cuda does not load: " + said());
  }
  PyObject* op = PyObject_GetAttrString(module, name);
  if (op == nullptr) {
    PyErr_Clear();
    return refuse(refusal, std::string(name) + " has no CUDA kernel yet");
  }
  PyObject* result = PyObject_Vectorcall(op, args, static_cast<size_t>(count), nullptr);
  Py_DECREF(op);
  return result;
}

bool has_device_op(const char* name) {
  PyObject* module = PyImport_ImportModule(kModule);
  const bool has = module != nullptr && PyObject_HasAttrString(module, name) != 0;
  PyErr_Clear();
  Py_XDECREF(module);
  return has;
}

PyObject* call_stand_in(const char* name, PyObject* const* args, Py_ssize_t count) {
  PyObject* op = PyObject_GetAttrString(stand_in_module, name);
  if (op == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  PyObject* result = PyObject_Vectorcall(op, args, static_cast<size_t>(count), nullptr);
  Py_DECREF(op);
  return result;
}

void bind_device_module(PyObject* module) {
  PyObject* function = PyCFunction_NewEx(&definition, nullptr, nullptr);
  if (function == nullptr || PyModule_AddObject(module, "set_stand_in", function) != 0) throw PythonErrorSet{};
}

}  // namespace hotloop
