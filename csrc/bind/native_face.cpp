// A public function in C for the ops whose call overhead matters: it binds arguments and defaults like the Python
// function it stands for and calls the native op. A frame of the interpreter with a dozen arguments costs 0.4 us,
// a quarter of a small torch op. Whatever is not the plain case (no `out`, a tensor subclass, wrong arguments) is
// handed to the Python function, which stays the definition of the behaviour.
#include "native_face.h"

#include <string>

#include "errors.h"

namespace hotloop {
namespace {

constexpr Py_ssize_t kMaxParameters = 16;

struct Face {
  PyObject* python = nullptr;      // the function this one stands for
  PyObject* native_self = nullptr;
  PyObject* (*native)(PyObject*, PyObject* const*, Py_ssize_t) = nullptr;
  PyObject* names = nullptr;       // interned, in the order of the native op's arguments; `out` is the last
  PyObject* defaults = nullptr;    // one a name; `required` where there is none
  PyObject* required = nullptr;
  Py_ssize_t count = 0, positional = 0;
  std::string name, doc;
  PyMethodDef definition{};
};

// Where `name` stands in the parameters, or -1.
Py_ssize_t find(const Face& face, PyObject* name) {
  for (Py_ssize_t i = face.count - 1; i >= 0; --i) {  // most often `out`, the last
    if (PyTuple_GET_ITEM(face.names, i) == name) return i;  // keywords of a call site are interned
  }
  for (Py_ssize_t i = 0; i < face.count; ++i) {
    if (PyUnicode_Compare(PyTuple_GET_ITEM(face.names, i), name) == 0) return i;
  }
  return -1;
}

PyObject* call_face(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  const Face& face = *static_cast<const Face*>(PyCapsule_GetPointer(self, nullptr));
  PyObject* bound[kMaxParameters];
  bool plain = nargs <= face.positional;
  for (Py_ssize_t i = 0; plain && i < nargs; ++i) bound[i] = args[i];
  for (Py_ssize_t i = nargs; plain && i < face.count; ++i) bound[i] = PyTuple_GET_ITEM(face.defaults, i);
  const Py_ssize_t named = keywords != nullptr ? PyTuple_GET_SIZE(keywords) : 0;
  for (Py_ssize_t k = 0; plain && k < named; ++k) {
    const Py_ssize_t i = find(face, PyTuple_GET_ITEM(keywords, k));
    plain = i >= nargs;  // unknown, or given twice
    if (plain) bound[i] = args[nargs + k];
  }
  for (Py_ssize_t i = nargs; plain && i < face.count; ++i) plain = bound[i] != face.required;
  PyObject* out = plain ? bound[face.count - 1] : Py_None;
  if (out != Py_None) {
    PyObject* result = face.native(face.native_self, bound, face.count);
    if (result == nullptr) return nullptr;
    Py_DECREF(result);
    if (result != Py_NotImplemented) {
      Py_INCREF(out);
      return out;
    }
  }
  return PyObject_Vectorcall(face.python, args, static_cast<size_t>(nargs), keywords);
}

// args: python function, native op, names, defaults, required marker, positional count, name, doc
PyObject* native_face(PyObject*, PyObject* args) {
  PyObject *python, *native, *names, *defaults, *required;
  Py_ssize_t positional;
  const char *name, *doc;
  if (!PyArg_ParseTuple(args, "OO!O!O!Onss", &python, &PyCFunction_Type, &native, &PyTuple_Type, &names,
                        &PyTuple_Type, &defaults, &required, &positional, &name, &doc)) {
    return nullptr;
  }
  const Py_ssize_t count = PyTuple_GET_SIZE(names);
  if (count > kMaxParameters || PyTuple_GET_SIZE(defaults) != count || positional > count || count < 1 ||
      PyCFunction_GET_FLAGS(native) != METH_FASTCALL) {
    PyErr_SetString(PyExc_ValueError, "native_face: names, defaults and native do not fit together");
    return nullptr;
  }
  auto* face = new Face;  // lives as long as the process, like the module's functions
  for (PyObject* kept : {python, native, names, defaults, required}) Py_INCREF(kept);
  face->python = python;
  face->native_self = PyCFunction_GET_SELF(native);
  face->native = reinterpret_cast<PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t)>(
      reinterpret_cast<void (*)()>(PyCFunction_GET_FUNCTION(native)));
  face->names = names;
  face->defaults = defaults;
  face->required = required;
  face->count = count;
  face->positional = positional;
  face->name = name;
  face->doc = doc;
  face->definition = {face->name.c_str(), reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call_face)),
                      METH_FASTCALL | METH_KEYWORDS, face->doc.c_str()};
  PyObject* self = PyCapsule_New(face, nullptr, nullptr);
  if (self == nullptr) return nullptr;
  PyObject* module_name = PyObject_GetAttrString(python, "__module__");
  PyObject* function = PyCFunction_NewEx(&face->definition, self, module_name);
  Py_XDECREF(module_name);
  Py_DECREF(self);
  return function;
}

PyMethodDef definition{"native_face", &native_face, METH_VARARGS, nullptr};

}  // namespace

void bind_native_face(PyObject* module) {
  PyObject* function = PyCFunction_NewEx(&definition, nullptr, nullptr);
  if (function == nullptr || PyModule_AddObject(module, "native_face", function) != 0) throw PythonErrorSet{};
}

}  // namespace hotloop
