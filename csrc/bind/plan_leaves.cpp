#include "plan_leaves.h"

#include "torch_bridge.h"

namespace hotloop {
namespace {

// The dict that a TensorDict keeps its entries in: a look-up there costs a tenth of td[key]. Borrowed; null for
// what has none (other classes of TensorDict, mappings), which is then asked key by key.
PyObject* entries_of(PyObject* container) {
  static PyObject* const name = PyUnicode_InternFromString("_tensordict");
  if (PyDict_Check(container)) return container;
  PyObject* entries = PyObject_GetAttr(container, name);
  if (entries == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  const bool is_dict = PyDict_Check(entries);
  Py_DECREF(entries);  // the container, which the caller holds, has its own reference
  return is_dict ? entries : nullptr;
}

}  // namespace

void HeldTensors::clear() {
  for (PyObject* object : objects) Py_DECREF(object);
  objects.clear();
  views.clear();
}

void HeldTensors::add(const char* op, const char* arg, PyObject* owned) {
  objects.push_back(owned);
  views.push_back(read_tensor(op, arg, owned));
}

void HeldTensors::mark_written() const { bump_versions(objects.data(), objects.size()); }

LeafPaths::LeafPaths(const char* op, PyObject* paths) {
  PyObject* list = PySequence_Fast(paths, "paths must be a sequence");
  if (list == nullptr) throw PythonErrorSet{};
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(list); ++i) {
    PyObject* path = PySequence_Fast_GET_ITEM(list, i);
    if (!PyTuple_Check(path) || PyTuple_GET_SIZE(path) == 0) {
      const std::string type = Py_TYPE(path)->tp_name;
      Py_DECREF(list);
      for (PyObject* each : paths_) Py_DECREF(each);
      type_error(op, "paths", "non-empty tuples of keys", type);
    }
    Py_INCREF(path);
    paths_.push_back(path);
    names_.push_back(python_str(PyTuple_GET_SIZE(path) == 1 ? PyTuple_GET_ITEM(path, 0) : path));
  }
  Py_DECREF(list);
}

LeafPaths::~LeafPaths() {
  for (PyObject* path : paths_) Py_DECREF(path);
}

PyObject* LeafPaths::find(PyObject* root, size_t leaf) const {
  PyObject* path = paths_[leaf];
  PyObject* current = root;
  Py_INCREF(current);
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(path); ++i) {
    PyObject* key = PyTuple_GET_ITEM(path, i);
    PyObject* entries = entries_of(current);
    PyObject* next;
    if (entries != nullptr) {
      next = PyDict_GetItemWithError(entries, key);
      Py_XINCREF(next);
      if (next == nullptr && !PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, key);
    } else {
      next = PyObject_GetItem(current, key);
    }
    Py_DECREF(current);
    if (next == nullptr) return nullptr;
    current = next;
  }
  return current;
}

void LeafPaths::read(const char* op, PyObject* root, HeldTensors* out) const {
  out->views.reserve(out->views.size() + paths_.size());
  out->objects.reserve(out->objects.size() + paths_.size());
  const bool listed = PyList_Check(root) || PyTuple_Check(root);
  if (listed && static_cast<size_t>(PySequence_Fast_GET_SIZE(root)) != paths_.size()) {
    value_error(op, "sources", "one tensor for each of the " + std::to_string(paths_.size()) + " leaves",
                std::to_string(PySequence_Fast_GET_SIZE(root)));
  }
  for (size_t l = 0; l < paths_.size(); ++l) {
    PyObject* leaf = listed ? PySequence_Fast_GET_ITEM(root, static_cast<Py_ssize_t>(l)) : find(root, l);
    if (listed) Py_INCREF(leaf);
    if (leaf == nullptr) throw PythonErrorSet{};
    out->add(op, names_[l].c_str(), leaf);
  }
}

bool same_layout(const View& a, const View& b) {
  if (a.dtype != b.dtype || a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i) {
    if (a.shape[i] != b.shape[i] || a.stride[i] != b.stride[i]) return false;
  }
  return true;
}

}  // namespace hotloop
